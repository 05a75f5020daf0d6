// The script for other sites: one tag puts a form of the hub where the tag stands.
//   <script src="https://HUB/embed/form.js" data-form="KEY" async></script>
// data-mode: frame (as it is, in a frame of its own), inline (built into the page, in the page's own style), button (a button
// that opens the form). data-lang: en, es, de, zh. data-theme: light, dark. data-text: the button's words.
// Nothing is evaluated and nothing written as HTML or as a style attribute, so a strict policy needs only this hub's address in
// script-src and in frame-src (frame, button) or connect-src (inline).
(() => {
  const tag = document.currentScript;
  const hub = new URL(tag.src).origin;
  const { form: key, mode = "frame", lang = "", theme = "", text = "" } = tag.dataset;
  const query = new URLSearchParams(Object.entries({ lang, theme }).filter(([, value]) => value));
  const address = `${hub}/forms/${encodeURIComponent(key)}`;
  const page = query.size ? `${address}?${query}` : address;
  const yes = new Set(["on", "true", "yes", "1"]);

  function make(name, given = {}, ...inside) {
    const made = Object.assign(document.createElement(name), given);
    made.append(...inside);
    return made;
  }

  function place(element) {
    if (document.head.contains(tag)) document.body.append(element);
    else tag.after(element);
    return element;
  }

  function frame() {
    const made = make("iframe", { src: page, title: text || "Form", className: "hub-form-frame", loading: "lazy" });
    Object.assign(made.style, { width: "100%", height: "480px", border: "0", display: "block", colorScheme: theme || "normal" });
    window.addEventListener("message", (event) => {
      if (event.origin !== hub || event.source !== made.contentWindow) return;
      const height = Number(event.data?.height);
      if (height > 0 && height < 20000) made.style.height = `${height}px`;
    });
    return made;
  }

  function button() {
    const opens = make("button", { type: "button", className: "hub-form-button", textContent: text || "Call me back" });
    opens.setAttribute("aria-haspopup", "dialog");
    const closes = make("button", { type: "button", className: "hub-form-close", textContent: "×" });
    closes.setAttribute("aria-label", "Close");
    const dialog = make("dialog", { className: "hub-form-dialog" }, closes);
    dialog.setAttribute("aria-label", opens.textContent);
    Object.assign(dialog.style, { width: "min(600px, 96vw)", padding: "8px", border: "0", borderRadius: "8px" });
    Object.assign(closes.style, { display: "block", marginLeft: "auto", minWidth: "40px", minHeight: "40px" });
    closes.addEventListener("click", () => dialog.close());
    opens.addEventListener("click", () => {
      if (!dialog.querySelector("iframe")) dialog.append(frame());
      dialog.showModal();
    });
    return make("span", { className: "hub-form" }, opens, dialog);
  }

  // --- inline ---

  const TYPES = { email: "email", phone: "tel", number: "number", date: "date", file: "file", hidden: "hidden", checkbox: "checkbox" };

  function input(field, told) {
    const given = { name: field.name, id: `hub-${key}-${field.name}` };
    if (field.kind === "textarea") return make("textarea", { ...given, rows: 5, value: field.value ?? "" });
    if (field.kind === "select" || field.kind === "slot") {
      const options = field.kind === "slot" ? told.slots : (field.options ?? []).map((one) => [one, one]);
      const none = make("option", { value: "", textContent: field.kind === "slot" ? told.words.soon : told.words.choose });
      return make("select", given, none, ...options.map(([value, textContent]) => make("option", { value, textContent })));
    }
    const made = make("input", { ...given, type: TYPES[field.kind] ?? "text", value: field.kind === "checkbox" ? "yes" : (field.value ?? "") });
    if (field.least) made.min = field.least;
    if (field.most) made.max = field.most;
    if (field.kind === "number") made.step = "any";
    return made;
  }

  function row(field, told) {
    const made = input(field, told);
    if (field.kind === "hidden") return made;
    const error = make("p", { className: "hub-form-error", id: `${made.id}-error`, hidden: true });
    made.setAttribute("aria-describedby", error.id);
    const label = make("label", { htmlFor: made.id, textContent: field.label ?? field.name });
    const parts = field.kind === "checkbox" ? [made, " ", label] : [label, made];
    if (field.hint) parts.push(make("small", { className: "hub-form-hint", textContent: field.hint }));
    return make("div", { className: "hub-form-field" }, ...parts, error);
  }

  function holds(form, condition) {
    const asked = form.elements.namedItem(condition.field);
    if (!asked || asked.closest("[hidden]")) return false;
    const value = (asked.type === "checkbox" ? (asked.checked ? asked.value : "") : asked.value).trim().toLowerCase();
    const wanted = (condition.is ?? "").toLowerCase();
    return wanted ? value === wanted || (yes.has(wanted) && yes.has(value)) : !["", "no", "0"].includes(value);
  }

  function arrange(form, fields) {
    for (const field of fields) {
      const made = form.elements.namedItem(field.name);
      const around = made.closest(".hub-form-field");
      if (!around) continue;
      around.hidden = Boolean(field.show_if) && !holds(form, field.show_if);
      made.required = !around.hidden && Boolean(field.required || (field.require_if && holds(form, field.require_if)));
    }
  }

  async function work(secret, bits) {
    if (!bits || !globalThis.crypto?.subtle) return "";
    const encoder = new TextEncoder();
    for (let n = 0; ; n += 1) {
      const head = new DataView(await crypto.subtle.digest("SHA-256", encoder.encode(`${secret}:${n}`))).getUint32(0);
      if (head >>> (32 - bits) === 0) return String(n);
    }
  }

  function built(told) {
    const says = make("p", { className: "hub-form-says", hidden: true });
    says.setAttribute("role", "status");
    const sends = make("button", { type: "submit", className: "hub-form-send", textContent: told.words.send });
    const trap = make("p", { hidden: true }, make("input", { name: told.honeypot, tabIndex: -1, autocomplete: "off" }));
    const rows = told.fields.map((field) => row(field, told));
    if (told.consent_text) rows.push(row({ name: "consent", kind: "checkbox", label: told.consent_text }, told));
    const form = make("form", { className: "hub-form", noValidate: false, enctype: "multipart/form-data" }, says, trap, ...rows, sends);
    form.setAttribute("aria-label", told.title);
    let secret = told.key;
    let proof = work(secret, told.work);
    form.addEventListener("input", () => arrange(form, told.fields));
    form.addEventListener("change", () => arrange(form, told.fields));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const sent = new FormData(form);
      for (const around of form.querySelectorAll(".hub-form-field[hidden] [name]")) sent.delete(around.name);
      sends.disabled = true;
      sends.textContent = told.words.sending;
      sent.set("_key", secret);
      sent.set("_version", told.version);
      sent.set("_work", await proof);
      try {
        const answer = await fetch(page, { method: "POST", body: sent, headers: { Accept: "application/json" }, credentials: "omit" });
        const body = await answer.json();
        if (answer.ok) {
          form.replaceChildren(make("p", { className: "hub-form-thanks", textContent: body.thanks }));
          form.firstChild.setAttribute("role", "status");
          form.dispatchEvent(new CustomEvent("hub-form:sent", { bubbles: true }));
          return;
        }
        if (body.key && body.key !== secret) proof = work((secret = body.key), told.work);
        for (const field of [...told.fields, { name: "consent" }]) {
          const made = form.elements.namedItem(field.name);
          const error = document.getElementById(`hub-${key}-${field.name}-error`);
          if (!made || !error) continue;
          error.textContent = body.fields?.[field.name] ?? "";
          error.hidden = !error.textContent;
          made.setAttribute("aria-invalid", String(!error.hidden));
        }
        says.textContent = body.detail;
        form.querySelector("[aria-invalid=true]")?.focus();
      } catch {
        says.textContent = told.words.failed;
      }
      says.hidden = false;
      sends.disabled = false;
      sends.textContent = told.words.send;
    });
    arrange(form, told.fields);
    return form;
  }

  async function inline() {
    const spot = place(make("div", { className: "hub-form-place" }));
    try {
      const answer = await fetch(`${address}/fields.json?${query}`, { credentials: "omit" });
      if (!answer.ok) throw new Error(String(answer.status));
      spot.append(built(await answer.json()));
    } catch {
      // This site may not read the form (it is not among those that the administrator named): the hosted page still works.
      spot.append(make("a", { href: page, textContent: text || address, className: "hub-form-link" }));
    }
  }

  if (mode === "inline") inline();
  else place(mode === "button" ? button() : frame());
})();
