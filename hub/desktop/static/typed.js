/**
 * What somebody typed is not lost. A field with `data-kept` keeps it in this tab, through a reload and a change of page, until the
 * hub has taken it or its writer logs out; under its id, or the name that `data-kept` gives. A form with `data-again` that the hub
 * refuses comes back as it was filled in.
 */
const KEPT = "typed:";
const NOT_TYPED = ["hidden", "password", "file", "submit", "button"];

const placeOf = (field) => KEPT + (field.dataset.kept || field.id);

let refused = null; // the action of the form that the hub has just refused, and its fields

function forget() {
  for (const name of Object.keys(sessionStorage)) if (name.startsWith(KEPT)) sessionStorage.removeItem(name);
}

export function bindTyped() {
  document.addEventListener("input", ({ target }) => {
    if (target.matches?.("[data-kept]")) sessionStorage.setItem(placeOf(target), target.value);
  });
  document.addEventListener("submit", ({ target }) => {
    if (target.getAttribute("action") === "/logout") forget();
  });
  document.addEventListener("htmx:after:request", ({ detail: { ctx } }) => {
    const form = ctx.sourceElement;
    if (!(form instanceof HTMLFormElement)) return;
    if (ctx.response.status < 400) {
      for (const field of form.querySelectorAll("[data-kept]")) sessionStorage.removeItem(placeOf(field));
    } else if (form.matches("[data-again]")) {
      const fields = [...form.elements].map(({ name, value, checked }) => ({ name, value, checked }));
      refused = { action: form.getAttribute("action"), fields };
    }
  });
}

export function giveBack() {
  for (const field of document.querySelectorAll("[data-kept]")) {
    const typed = sessionStorage.getItem(placeOf(field));
    if (!typed || field.value) continue;
    field.value = typed;
    field.closest("details")?.setAttribute("open", "");
  }
  if (!refused) return;
  const form = document.querySelector(`form[data-again][action="${CSS.escape(refused.action)}"]`);
  [...form?.elements ?? []].forEach((field, place) => {
    const before = refused.fields[place];
    if (before?.name !== field.name || NOT_TYPED.includes(field.type)) return;
    if ("checked" in field) field.checked = before.checked;
    if (!["checkbox", "radio"].includes(field.type)) field.value = before.value;
  });
  refused = null;
}
