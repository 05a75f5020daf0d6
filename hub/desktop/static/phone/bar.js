/**
 * Ties the phone to the page by attributes, so that templates hold every word and this file none.
 *
 *   data-phone-do="accept|dial|answer|reject|hangup|mute|hold|digits|rejoin"   a click gives the command
 *       with data-offer, data-to (and data-… for the rest of a dial request), data-name and data-number (whom the bar
 *       names until the server does), data-digits; anywhere in the page, also
 *       in parts that are swapped in later; mute and hold toggle and show aria-pressed
 *   data-phone-show="call live ringing"   shown while any of the words holds (words: see `words`)
 *   data-phone-text="customer.name"       text from the call
 *   data-phone-clock                      m:ss since the call's `since`
 *   data-phone-message="CODE"             shown while the last error has this code; data-phone-detail its sentence
 *   data-phone-words                      (on the root element) all words that hold, for CSS
 */
const COMMANDS = {
  accept: (desk, { offer, name, number }) => desk.accept(offer, { name, number }),
  dial: (desk, { phoneDo: _, ...request }) => desk.dial({ ...request }),
  answer: (desk) => desk.answer(),
  reject: (desk) => desk.reject(),
  hangup: (desk) => desk.hangup(),
  mute: (desk) => desk.mute(!desk.snapshot.call?.muted),
  hold: (desk) => desk.hold(!desk.snapshot.call?.held),
  digits: (desk, { digits }) => desk.digits(digits),
  rejoin: (desk) => desk.rejoin(),
};

/** Everything that holds now: owner, follower, stream-…, line-…, call or idle, the call's line state, muted, held … */
export function words({ owner, stream, line, call, soundBlocked, ringing, incoming }, error) {
  const all = [owner ? "owner" : "follower", `stream-${stream}`, `line-${line.state}`, call ? "call" : "idle"];
  if (call) all.push(call.line ?? "none", `quality-${call.quality ?? "good"}`);
  if (call?.state) all.push(`call-${call.state}`); // the server's word: wherever the sound is, on a telephone or another machine
  if (call?.muted) all.push("muted");
  if (call?.held) all.push("held");
  if (incoming) all.push("incoming");
  if (ringing) all.push("ringing-offer");
  if (soundBlocked) all.push("sound-blocked");
  if (error) all.push("error");
  return all;
}

const path = (value, keys) => keys.split(".").reduce((inner, key) => inner?.[key], value);

export function bindBar(desk, root = document.documentElement) {
  let error = null;
  let clock = null;

  const each = (attribute, act) => {
    const found = document.querySelectorAll(`[${attribute}]`);
    found.forEach((element) => act(element, element.getAttribute(attribute)));
  };

  const tick = () => {
    const since = Date.parse(desk.snapshot.call?.since ?? "");
    const seconds = Number.isNaN(since) ? 0 : Math.max(0, Math.floor((Date.now() - since) / 1000));
    each("data-phone-clock", (element) => {
      element.textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    });
  };

  const render = () => {
    const { call } = desk.snapshot;
    const holding = new Set(words(desk.snapshot, error));
    root.setAttribute("data-phone-words", [...holding].join(" "));
    each("data-phone-show", (element, wanted) => {
      element.hidden = !wanted.split(" ").some((word) => holding.has(word));
    });
    each("data-phone-text", (element, keys) => {
      element.textContent = path(call, keys) ?? "";
    });
    each("data-phone-message", (element, code) => {
      element.hidden = error?.code !== code;
    });
    each("data-phone-detail", (element) => {
      element.textContent = error?.detail ?? "";
    });
    for (const toggle of ["mute", "hold"]) {
      const on = Boolean(toggle === "mute" ? call?.muted : call?.held);
      const buttons = document.querySelectorAll(`[data-phone-do="${toggle}"]`);
      buttons.forEach((button) => button.setAttribute("aria-pressed", String(on)));
    }
    clearInterval(clock);
    clock = call ? setInterval(tick, 1000) : null;
    tick();
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-phone-do]");
    const command = button && COMMANDS[button.dataset.phoneDo];
    if (!command) return;
    event.preventDefault();
    error = null;
    button.setAttribute("aria-busy", "true");
    // What failed is shown by the error listener below.
    command(desk, button.dataset).catch(() => {}).finally(() => button.removeAttribute("aria-busy"));
  });
  desk.on("change", render);
  desk.on("error", (latest) => {
    error = latest;
    render();
  });
  // A dialog that the server's answer closes: <dialog data-closed-by="transferred">.
  document.querySelectorAll("dialog[data-closed-by]").forEach((dialog) => {
    document.addEventListener(dialog.dataset.closedBy, () => dialog.close());
  });
  // A part of the page that htmx swapped in may carry attributes of ours.
  document.addEventListener("htmx:after:swap", render);
  render();
}
