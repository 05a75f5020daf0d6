/**
 * The one event stream of all tabs: GET /desk/events (server-sent events).
 *
 * Every event is an unnamed one whose data is JSON with a `type`, so that a new type needs no change here:
 *   {type: "hello", beat_s}   first, on every connection: how often a beat comes; its id is where this stream begins,
 *                             so that even a link lost before the first event misses none
 *   {type: "beat"}            so that a dead link is noticed
 *   {type: "resync"}          the server does not know our last event id: look at everything again
 *   {type: "offer", id, ring?}  an offer changed; ring: it should be heard, or no longer
 *   {type: "call", id}        the agent's call changed: its state is asked for
 *   {type: ..., ...}          all others: ids and versions, passed on to every tab
 * The browser sends Last-Event-ID when it reconnects by itself; a tab that takes over says it as ?after=.
 */
import { Emitter } from "./emitter.js";

const FIRST_RETRY_MS = 300;
const MAX_RETRY_MS = 5000;

/** Events: event ({id, type, ...}), status ("connecting" | "live" | "lost"), refused (the server gave no stream). */
export class EventStream extends Emitter {
  #url;
  #source = null;
  #after;
  #retryMs = FIRST_RETRY_MS;
  #retryTimer = null;
  #watch = null;
  #beatMs = 0;
  #status = null;

  constructor(url, after = "") {
    super();
    this.#url = url;
    this.#after = after;
  }

  get lastId() {
    return this.#after;
  }

  open() {
    this.#source?.close();
    if (this.#status !== "lost") this.#say("connecting");
    const source = new EventSource(this.#after ? `${this.#url}?after=${encodeURIComponent(this.#after)}` : this.#url);
    this.#source = source;
    source.addEventListener("message", (event) => this.#take(event));
    source.addEventListener("error", () => {
      this.#say("lost");
      // CLOSED: the server answered with something that is no stream, and the browser will not try again.
      if (source === this.#source && source.readyState === EventSource.CLOSED) {
        this.emit("refused");
        this.#later();
      }
    });
  }

  close() {
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#watch);
    this.#source?.close();
    this.#source = null;
  }

  #take({ data, lastEventId }) {
    const event = JSON.parse(data);
    this.#retryMs = FIRST_RETRY_MS;
    if (lastEventId) this.#after = lastEventId;
    this.#say("live");
    if (event.type === "hello") this.#beatMs = (event.beat_s ?? 0) * 1000;
    this.#expectBeat();
    if (event.type !== "hello" && event.type !== "beat") this.emit("event", { id: lastEventId, ...event });
  }

  #expectBeat() {
    clearTimeout(this.#watch);
    if (!this.#beatMs) return;
    this.#watch = setTimeout(() => {
      this.#say("lost");
      this.open();
      this.#expectBeat();
    }, this.#beatMs * 2);
  }

  #later() {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => this.#source && this.open(), this.#retryMs);
    this.#retryMs = Math.min(this.#retryMs * 2, MAX_RETRY_MS);
  }

  #say(status) {
    if (status === this.#status) return;
    this.#status = status;
    this.emit("status", status);
  }
}
