/**
 * What happened elsewhere reaches the parts of this page that show it.
 *
 * A part says what it depends on: data-live="offer.* conversation.changed@ID". An event of that kind (and, behind the @,
 * about that subject) gives it one DOM event `live`, at most four times a second, on which htmx fetches the part anew.
 * Behind the @ stands `mine` for the calls of whoever looks.
 * With data-live-up the event is for the part around the element.
 * The events come from the phone's elected tab (`hub:event`); for those who have no phone this page listens by itself.
 */
import { EventStream } from "./phone/stream.js";

const GATHER_MS = 250;
const BEAT_MS = 15_000;

export const csrf = () => document.querySelector('meta[name="csrf-token"]')?.content ?? "";

function concerns(wanted, event) {
  const [kind, subject] = wanted.split("@");
  const fits = kind.endsWith("*") ? event.kind.startsWith(kind.slice(0, -1)) : event.kind === kind;
  if (subject === "mine") return fits && event.type === "call";
  return fits && (!subject || [event.id, event.subject, event.conversation, event.contact].includes(subject));
}

const waiting = new Map();

function wake(element) {
  if (!waiting.has(element)) waiting.set(element, setTimeout(() => give(element), GATHER_MS));
}

/** A menu that somebody has open is not taken from under their hand: the part waits until it is closed. */
function give(element) {
  if (element.isConnected && element.querySelector(".dropdown-menu.show")) {
    waiting.set(element, setTimeout(() => give(element), GATHER_MS * 2));
    return;
  }
  waiting.delete(element);
  if (element.isConnected) element.dispatchEvent(new CustomEvent("live", { bubbles: "liveUp" in element.dataset }));
}

const KEPT_MS = 5000;
let recent = [];

function hand(event, root) {
  root.querySelectorAll("[data-live]").forEach((element) => {
    const all = event.type === "resync" || !event.kind;
    if (all || element.dataset.live.split(" ").some((wanted) => concerns(wanted, event))) wake(element);
  });
}

function take(event) {
  const now = Date.now();
  recent = [...recent.filter(({ at }) => now - at < KEPT_MS), { at: now, event }];
  hand(event, document);
}

/** What the server drew before the stream was there may be old by now: every part looks once more. */
let linked = false;

function link(status) {
  if (status !== "live" || linked) return;
  linked = true;
  take({ type: "resync" });
}

/** Likewise what happened while a page was on its way here. */
document.addEventListener("htmx:after:swap", ({ target, detail }) => {
  const page = detail?.ctx?.target ?? target;
  if (page?.id === "page") recent.filter(({ event }) => event.kind).forEach(({ event }) => hand(event, page));
});

/** The owner of the line tells the server that this agent is here, and whether calls can be taken. */
function beat(snapshot) {
  if (!snapshot?.owner) return;
  fetch("/desk/heartbeat", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json", "X-CSRF": csrf() },
    body: JSON.stringify({ voice_ready: snapshot.line.state === "ready" }),
  }).catch(() => {});
}

export function bindStream() {
  document.addEventListener("hub:event", ({ detail }) => take(detail));
  if (document.querySelector('meta[name="hub-phone"]')) {
    let last = null;
    let said = null;
    document.addEventListener("hub:phone", ({ detail }) => {
      last = detail;
      link(detail.stream);
      const now = `${detail.owner} ${detail.line.state}`;
      if (now !== said) beat(detail);
      said = now;
    });
    setInterval(() => beat(last), BEAT_MS);
    return;
  }
  if (!csrf()) return;
  const stream = new EventStream("/desk/events");
  stream.on("event", take);
  stream.on("status", (status) => {
    link(status);
    document.querySelectorAll('[data-phone-show="stream-lost"]').forEach((element) => {
      element.hidden = status !== "lost";
    });
  });
  stream.open();
  addEventListener("pagehide", () => stream.close());
}
