/**
 * The desktop's own behaviour, beside htmx and the phone: starts the live parts, the clocks and the keys, and the few
 * things that HTML has no word for. Everything that a person reads comes from the server.
 */
import { bindKeys } from "./keys.js";
import { bindSegments, countAll } from "./segments.js";
import { bindStream, csrf } from "./stream.js";
import { bindTyped, giveBack } from "./typed.js";

const each = (selector, act, root = document) => root.querySelectorAll(selector).forEach(act);

// ---- clocks: what waits, and what runs out, by the server's clock

const skew = Date.parse(document.querySelector('meta[name="hub-now"]')?.content ?? "") - Date.now() || 0;

function shown(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const two = (n) => String(n).padStart(2, "0");
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes}:${two(seconds % 60)}` : `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(seconds % 60)}`;
}

function tick() {
  const now = Date.now() + skew;
  each("[data-since]", (element) => {
    element.textContent = shown(now - Date.parse(element.dataset.since));
  });
  each("[data-until]", (element) => {
    const left = Date.parse(element.dataset.until) - now;
    element.textContent = shown(left);
    element.classList.toggle("text-danger", left < 6000);
  });
  // The age of a board's figures: they are old when the connection is.
  each("[data-age]", (element) => {
    element.classList.toggle("text-danger", now - Date.parse(element.dataset.age) > 15_000);
  });
}

setInterval(tick, 1000);

// ---- htmx: the session's token on every request, the menu's place, the focus after a change of page

document.addEventListener("htmx:config:request", ({ detail: { ctx } }) => {
  ctx.request.headers["X-CSRF"] = csrf();
  // htmx.ajax and HX-Location name the page's body, whatever target they are given: the server would send the whole frame.
  if (ctx.target?.id === "page") ctx.request.headers["HX-Target"] = "main#page";
});

// What a person does is asked for once, however often they click, and a draft is not kept of what is being sent already.
const underWay = new WeakSet();

document.addEventListener("htmx:config:request", (event) => {
  const { ctx } = event.detail;
  const { request, sourceElement: asked } = ctx;
  if (request.method === "GET" && !asked.matches("[data-earlier]")) return;
  if (underWay.has(asked) || underWay.has(asked.closest("form"))) return event.preventDefault();
  if (!asked.matches("form, button")) return;
  underWay.add(asked);
  asked.ariaBusy = "true";
  ctx.asked = asked; // htmx names another element at the end when this one has left the page
});

document.addEventListener("htmx:finally:request", ({ detail: { ctx: { asked } } }) => {
  if (!asked) return;
  underWay.delete(asked);
  asked.ariaBusy = null;
  const parts = [...putOff];
  putOff.clear();
  parts.forEach(askAgain);
});

// What waits for a file does not go without it.
const lacking = new WeakSet();

for (const name of ["htmx:response:error", "htmx:error"]) {
  document.addEventListener(name, ({ detail: { ctx } }) => {
    const source = ctx?.sourceElement;
    const form = source?.type === "file" && source.closest("form");
    if (form && underWay.has(form)) lacking.add(form);
  });
}

document.addEventListener("htmx:before:request", (event) => {
  if (lacking.delete(event.detail.ctx.sourceElement)) event.preventDefault();
});

function markPlace() {
  each(".rail a", (link) => {
    const here = location.pathname === link.pathname || location.pathname.startsWith(`${link.pathname}/`);
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
}

// A field that wants the focus gets it once, when it appears, and never from somebody who is typing.
const focused = new WeakSet();

function focusOnce(element) {
  if (focused.has(element)) return;
  focused.add(element);
  const typing = document.activeElement?.matches("textarea, input") && document.activeElement.value;
  if (!typing) element.focus({ preventScroll: true });
}

// A talk is read from its end. Whoever scrolled back keeps their place, whatever comes in above or below it.
const places = new WeakMap();

function keepPlace(element) {
  const top = element.scrollTop;
  const end = element.scrollHeight - top - element.clientHeight < 24;
  const line = [...element.children].find(({ id, offsetTop, offsetHeight }) => id.startsWith("t-") && offsetTop + offsetHeight > element.offsetTop + top);
  places.set(element, { end, id: line?.id, offset: (line?.offsetTop ?? 0) - top });
}

function takePlace(element) {
  const place = places.get(element);
  const line = place && !place.end && place.id ? document.getElementById(place.id) : null;
  element.scrollTop = line ? line.offsetTop - place.offset : element.scrollHeight;
}

document.addEventListener("htmx:before:swap", () => each("[data-scroll-end]", keepPlace));

// A part that fetches itself does not draw over what a person opened in it meanwhile: such an answer is old, and it asks again.
// Nor over a form that is being sent: the next one would stand there deaf, with a click meant for it taken for the second one.
const drawings = new WeakMap();
const drawn = (element) => drawings.get(element) ?? 0;
const putOff = new Set();
const busy = (part) => [...part.querySelectorAll("form, button")].some((element) => underWay.has(element));

function askAgain(part) {
  if (busy(part)) putOff.add(part);
  else setTimeout(() => part.isConnected && part.dispatchEvent(new CustomEvent("live")));
}

document.addEventListener("htmx:before:request", ({ detail: { ctx } }) => {
  ctx.drawn = drawn(ctx.target);
});

document.addEventListener("htmx:before:swap", (event) => {
  const { ctx } = event.detail;
  if (!(ctx?.target instanceof Element)) return;
  const byItself = ctx.sourceElement === ctx.target && "live" in ctx.target.dataset;
  if (byItself && (busy(ctx.target) || ctx.drawn !== drawn(ctx.target))) {
    event.preventDefault();
    return askAgain(ctx.target);
  }
  drawings.set(ctx.target, drawn(ctx.target) + 1);
});

// The earlier part comes when its reader reaches the top, by wheel, finger or key; its button does the same.
document.addEventListener("scroll", ({ target }) => {
  if (target instanceof Element && target.matches("[data-scroll-end]") && target.scrollTop < 48 && target.scrollHeight > target.clientHeight) {
    const button = target.querySelector("[data-earlier]:not(.htmx-request)");
    if (button && places.has(target)) button.click();
  }
}, { capture: true, passive: true });

function settle(root) {
  tick();
  giveBack();
  countAll();
  each("[data-scroll-end]", (element) => {
    takePlace(element);
    keepPlace(element);
  });
  each("[autofocus]", focusOnce, root);
  each("[data-toast]", (element) => toast(element), root);
}

document.addEventListener("htmx:after:swap", ({ target, detail }) => {
  const swapped = detail?.ctx?.target ?? target;
  markPlace();
  settle(document);
  if (swapped instanceof Element && swapped.id === "page" && !swapped.contains(document.activeElement)) {
    swapped.focus({ preventScroll: true });
    swapped.scrollTop = 0;
  }
});
document.addEventListener("htmx:after:history:push", markPlace);
document.addEventListener("htmx:error", () => say("network"));

// ---- a short word at the edge of the screen

function toast(element) {
  const place = document.getElementById("toasts");
  if (!place || element.closest("#toasts")) return;
  place.append(element);
  setTimeout(() => element.remove(), Number(element.dataset.toast) || 6000);
}

function say(code) {
  const message = document.querySelector(`[data-phone-message="${code}"]`);
  if (!message) return;
  message.hidden = false;
  setTimeout(() => {
    message.hidden = true;
  }, 8000);
}

document.addEventListener("hub:phone-error", ({ detail }) => {
  // A refusal whose code has no sentence of its own is shown with the server's.
  const known = document.querySelector(`[data-phone-message="${CSS.escape(detail.code)}"]`);
  const shownBy = known ?? document.querySelector('[data-phone-message="server"]');
  if (shownBy) {
    shownBy.hidden = false;
    const sentence = shownBy.querySelector("[data-phone-detail]");
    if (sentence) sentence.textContent = detail.detail ?? "";
  }
});

// ---- clicks

document.addEventListener("click", (event) => {
  const on = (selector) => event.target.closest(selector);
  if (on("[data-theme-toggle]")) globalThis.hubTheme.toggle();
  else if (on("[data-dialog]")) document.getElementById(on("[data-dialog]").dataset.dialog)?.showModal();
  else if (on("[data-dismiss]")) on(".alert, .toast")?.setAttribute("hidden", "");
  else if (on("[data-insert]")) insert(on("[data-insert]"));
  if (!on(".search")) document.querySelector(".search")?.classList.remove("open");
});

document.addEventListener("focusin", ({ target }) => {
  document.querySelector(".search")?.classList.toggle("open", Boolean(target.closest(".search")));
});

function insert(button) {
  const field = document.getElementById(button.dataset.into);
  if (!field) return;
  field.setRangeText(button.dataset.insert, field.selectionStart, field.selectionEnd, "end");
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.focus();
}

// ---- a disposition by its two letters, or by the beginning of its name

document.addEventListener("input", ({ target }) => {
  if (!target.matches("[data-pick]")) return;
  const typed = target.value.trim().toLowerCase();
  const options = [...document.querySelectorAll(`[data-pick-in="${target.dataset.pick}"]`)];
  const hit = typed && (options.find((option) => option.dataset.code === typed)
    ?? options.find((option) => option.dataset.label.toLowerCase().startsWith(typed)));
  for (const option of options) {
    const input = option.querySelector("input");
    input.checked = option === hit || (input.checked && !typed);
  }
});

document.addEventListener("change", ({ target }) => {
  // One box for all rows of the page; boxes whose values go into one field of the address.
  if (target.matches("[data-all]")) each(`[name="${target.dataset.all}"]`, (box) => { box.checked = target.checked; });
  const joined = target.closest("[data-joins]");
  if (joined) joined.querySelector(`[name="${joined.dataset.joins}"]`).value = [...joined.querySelectorAll("[type=checkbox]:checked")].map((box) => box.value).join(",");
  if (target.matches("[data-shows]")) {
    each(`[data-shown-by="${target.name}"]`, (element) => {
      element.hidden = !element.dataset.shownFor.split(" ").includes(target.value);
    });
  }
});

// ---- a button that copies what a field shows

document.addEventListener("click", async ({ target }) => {
  const button = target.closest("[data-copies]");
  if (!button) return;
  const field = document.getElementById(button.dataset.copies);
  field.select();
  try {
    await navigator.clipboard.writeText(field.value);
  } catch {
    document.execCommand("copy"); // no https, or not allowed: the older way
  }
  button.dataset.words ??= button.textContent;
  button.textContent = button.dataset.copied;
  setTimeout(() => { button.textContent = button.dataset.words; }, 2000);
});

// ---- a call brings its screen

let callShown = null;
document.addEventListener("hub:phone", ({ detail: { call } }) => {
  const id = call?.interaction_id ?? null;
  if (id && id !== callShown && ["joining", "ringing", "live"].includes(call.line)) {
    callShown = id;
    const here = document.querySelector("[data-shows-call]")?.dataset.showsCall;
    // A telemarketer's page shows its own call.
    if (here !== id && !document.querySelector("[data-keeps-call]")) globalThis.htmx.ajax("GET", `/desk/work/call/${encodeURIComponent(id)}`, { target: "#page", push: "true" });
  }
  if (!id) callShown = null;
});

bindKeys();
bindSegments();
bindStream();
bindTyped();
markPlace();
settle(document);
