/**
 * The keyboard: one letter each for what is done a hundred times a day. A key presses the button that carries it
 * (data-key="a"), so that the keyboard can do nothing that the mouse cannot, and nothing that is not on the screen.
 * In a field letters are letters; Ctrl+Enter sends it, Escape leaves it.
 */
const GO_MS = 1500;

const visible = (element) => element.checkVisibility?.() ?? element.offsetParent !== null;
const first = (selector) => [...document.querySelectorAll(selector)].find((element) => visible(element) && !element.disabled);

function inField(target) {
  return target.isContentEditable || target.matches("textarea, select, input:not([type=radio], [type=checkbox], [type=button], [type=submit])");
}

function press(element) {
  if (element.matches("input:not([type=radio], [type=checkbox]), textarea, select")) {
    element.focus();
    element.select?.();
  } else {
    element.click();
  }
}

function send(target) {
  const form = target.closest("form[data-send]") ?? first("form[data-send]");
  form?.requestSubmit();
  return Boolean(form);
}

function step(by) {
  const rows = [...document.querySelectorAll("[data-row]")].filter(visible);
  if (!rows.length) return false;
  const at = rows.findIndex((row) => row.contains(document.activeElement) || row.getAttribute("aria-current") === "true");
  const next = rows[Math.min(rows.length - 1, Math.max(0, at + by))];
  (next.matches("a, button") ? next : next.querySelector("a, button"))?.focus();
  return true;
}

export function bindKeys() {
  let going = 0;
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    const handled = () => event.preventDefault();
    if (key === "Enter" && (event.ctrlKey || event.metaKey)) return void (send(target) && handled());
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (key === "Escape") {
      if (inField(target)) target.blur();
      return;
    }
    if (inField(target) || document.querySelector("dialog[open]")) return;
    if (document.querySelector(".keypad.show") && /^[0-9*#]$/.test(key)) {
      document.querySelector(`.keypad [data-digits="${CSS.escape(key)}"]`)?.click();
      return void handled();
    }
    if (going && Date.now() - going < GO_MS) {
      going = 0;
      const link = document.querySelector(`[data-go="${CSS.escape(key)}"]`);
      if (link) {
        handled();
        link.click();
      }
      return;
    }
    if (key === "g") {
      going = Date.now();
      return;
    }
    if (key === "?") {
      document.getElementById("keys")?.showModal();
      return void handled();
    }
    if (key === "j" || key === "i") return void (step(key === "j" ? 1 : -1) && handled());
    const button = first(`[data-key="${CSS.escape(key)}"]`);
    if (button) {
      handled();
      press(button);
    }
  });
}
