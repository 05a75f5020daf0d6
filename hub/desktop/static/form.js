// The hosted form: fields that hang on another field's answer are shown, or must be filled in, when it is given; the proof of
// work is found while somebody types; in a frame the page tells its height. Without script all fields are shown, the hub
// leaves out what its condition hides, and asks for patience instead of work.
const yes = new Set(["on", "true", "yes", "1"]);
const encoder = new TextEncoder();

function valueOf(form, name) {
  const field = form.elements.namedItem(name);
  if (!field) return "";
  if (field.type === "checkbox") return field.checked ? field.value : "";
  return field.value ?? "";
}

function holds(form, asked, is) {
  const wanted = is.toLowerCase();
  const value = valueOf(form, asked).trim().toLowerCase();
  return wanted ? value === wanted || (yes.has(wanted) && yes.has(value)) : value !== "" && value !== "no" && value !== "0";
}

function arrange(form) {
  const hidden = new Set();
  for (const part of form.querySelectorAll("[data-show-if]")) {
    const { showIf, showIs } = part.dataset;
    part.hidden = hidden.has(showIf) || !holds(form, showIf, showIs);
    for (const field of part.querySelectorAll("[name]")) if (part.hidden) hidden.add(field.name);
  }
  for (const field of form.querySelectorAll("[data-must], [data-must-if]")) {
    const { mustIf, mustIs } = field.dataset;
    const must = "must" in field.dataset || (mustIf !== undefined && holds(form, mustIf, mustIs));
    field.required = must && !field.closest("[hidden]");
    field.closest("[data-field]")?.querySelector("label.form-label")?.classList.toggle("required", must);
  }
}

// A number whose hash together with the key begins with so many zero bits. Empty where the browser hashes nothing (no https).
async function work(key, bits) {
  if (!globalThis.crypto?.subtle) return "";
  for (let n = 0; ; n += 1) {
    const head = new DataView(await crypto.subtle.digest("SHA-256", encoder.encode(`${key}:${n}`))).getUint32(0);
    if (head >>> (32 - bits) === 0) return String(n);
  }
}

function prove(form) {
  const [key, found] = ["_key", "_work"].map((name) => form.elements.namedItem(name));
  const bits = Number(form.dataset.work);
  if (!bits || !key || !found) return;
  const done = work(key.value, bits).then((answer) => {
    found.value = answer;
    return true;
  });
  let ready = false;
  done.then(() => (ready = true));
  form.addEventListener("submit", (event) => {
    if (ready) return;
    event.preventDefault();
    const button = form.querySelector("button[type=submit]");
    button.disabled = true;
    done.then(() => {
      button.disabled = false;
      form.requestSubmit(button);
    });
  });
}

// Files that would be refused are told before they travel.
function weigh(form) {
  const { mostBytes, tooLarge } = form.dataset;
  const fields = [...form.querySelectorAll("[type=file]")];
  const bytes = fields.flatMap((field) => [...field.files]).reduce((sum, file) => sum + file.size, 0);
  for (const field of fields) field.setCustomValidity(field.files.length && bytes > Number(mostBytes) ? tooLarge : "");
}

// What was typed outlives an answer of a hub that could not read it: too large, too many from here, not stored just now.
function keep(form) {
  const place = `hub form ${location.pathname}`;
  try {
    if ("again" in form.dataset) {
      for (const [name, value] of JSON.parse(sessionStorage.getItem(place) ?? "[]")) {
        const field = form.elements.namedItem(name);
        if (field?.type === "checkbox") field.checked = true;
        else if (field) field.value = value;
      }
    } else sessionStorage.removeItem(place);
    form.addEventListener("submit", () => {
      const typed = [...new FormData(form)].filter(([name, value]) => typeof value === "string" && !name.startsWith("_"));
      sessionStorage.setItem(place, JSON.stringify(typed));
    });
  } catch {
    // A browser that keeps nothing for this page (in a frame of another site): all else works.
  }
}

for (const form of document.querySelectorAll("form")) {
  form.addEventListener("input", () => arrange(form));
  form.addEventListener("change", () => {
    arrange(form);
    weigh(form);
  });
  keep(form);
  arrange(form);
  prove(form);
}
document.querySelector(".alert-danger, .alert-success")?.focus();

if (window.parent !== window) {
  document.documentElement.classList.add("framed");
  const sheet = document.querySelector(".sheet");
  // A height is all that it says, so any page around may hear it.
  const tell = () => window.parent.postMessage({ hubForm: location.pathname, height: Math.ceil(sheet.getBoundingClientRect().height) }, "*");
  new ResizeObserver(tell).observe(sheet);
  tell();
}
