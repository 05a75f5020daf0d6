// The hosted form: fields that hang on another field's answer are shown when it is given. Without script all are shown, and
// the hub leaves out what its condition hides.
const yes = new Set(["on", "true", "yes", "1"]);

function valueOf(form, name) {
  const field = form.elements.namedItem(name);
  if (!field) return "";
  if (field.type === "checkbox") return field.checked ? field.value : "";
  return field.value ?? "";
}

function arrange(form) {
  const hidden = new Set();
  for (const part of form.querySelectorAll("[data-show-if]")) {
    const asked = part.dataset.showIf;
    const wanted = part.dataset.showIs.toLowerCase();
    const value = valueOf(form, asked).trim().toLowerCase();
    const met = wanted ? value === wanted || (yes.has(wanted) && yes.has(value)) : value !== "" && value !== "no" && value !== "0";
    part.hidden = hidden.has(asked) || !met;
    for (const field of part.querySelectorAll("[name]")) if (part.hidden) hidden.add(field.name);
  }
}

for (const form of document.querySelectorAll("form")) {
  form.addEventListener("input", () => arrange(form));
  form.addEventListener("change", () => arrange(form));
  arrange(form);
}
