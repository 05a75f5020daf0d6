/**
 * The phone of the desktop, the same in every tab: a snapshot to show, commands to give, events to react to.
 * Which tab owns the line is nobody's business but this file's.
 *
 * Snapshot: {
 *   owner: bool (this tab), stream: "connecting" | "live" | "lost", line: {kind, state, code}, soundBlocked: bool,
 *   ringing: bool, incoming: null | {params}, after: last event id,
 *   call: null | {interaction_id, state, customer, since, held, muted, direction, offer, quality,
 *                 line: "joining" | "ringing" | "incoming" | "live" | "rejoining" | "lost" | "elsewhere" | "none"}
 * }
 * On the document: `hub:phone` (detail: the snapshot), `hub:phone-error` (detail: {code, detail}), `hub:event` and
 * `hub:event:TYPE` (detail: the event) in every tab, so that a part of the page can say when it wants to be fetched.
 */
import { Emitter } from "./emitter.js";
import { plainError } from "./errors.js";
import { Owner } from "./owner.js";
import { Tabs } from "./tabs.js";

const NO_LINE = { kind: "", state: "off", code: "" };
const QUIET = { stream: "connecting", line: NO_LINE, ringing: false, incoming: null };
const FIRST = { ...QUIET, owner: false, soundBlocked: false, after: "", call: null };
const DEFAULTS = { scope: "", assets: "/static", events: "/desk/events", device: {}, answerMs: 4000 };

/** Events: change (snapshot), error {code, detail}, event (one of the stream). */
export class Desk extends Emitter {
  #config;
  #tabs = null;
  #owner = null;
  #snapshot = FIRST;

  constructor(config = {}) {
    super();
    this.#config = { ...DEFAULTS, ...config };
  }

  get snapshot() {
    return this.#snapshot;
  }

  start() {
    this.#open();
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#tabs?.probe());
    // A page kept in the back/forward cache must not hold the lock; when it is shown again it starts afresh.
    addEventListener("pagehide", () => this.stop());
    addEventListener("pageshow", (event) => event.persisted && this.#open());
  }

  stop() {
    this.#owner = null;
    this.#tabs?.stop();
    this.#tabs = null;
  }

  accept(offer, who = {}) {
    performance.mark("hub-phone-accept");
    return this.#command("accept", { offer, who });
  }

  dial(request) {
    return this.#command("dial", request);
  }

  answer() {
    return this.#command("answer");
  }

  reject() {
    return this.#command("reject");
  }

  hangup() {
    return this.#command("hangup");
  }

  mute(on) {
    return this.#command("mute", { on });
  }

  hold(on) {
    return this.#command("hold", { on });
  }

  digits(digits) {
    return this.#command("digits", { digits });
  }

  rejoin() {
    return this.#command("rejoin");
  }

  async #command(name, args) {
    try {
      return await this.#tabs.command(name, args);
    } catch (error) {
      this.#fail(plainError(error));
      throw error;
    }
  }

  #open() {
    this.stop();
    const name = this.#config.scope ? `hub-phone ${this.#config.scope}` : "hub-phone";
    this.#tabs = new Tabs(name, this.#config);
    this.#tabs.on("owner", (signal) => this.#own(signal));
    this.#tabs.on("hello", () => this.#publish());
    this.#tabs.on("message", (message) => this.#hear(message));
    this.#tabs.start((command, args) => this.#owner.run(command, args));
  }

  #own(signal) {
    const owner = new Owner(this.#config, this.#snapshot, signal);
    this.#owner = owner;
    signal.addEventListener("abort", () => {
      if (this.#owner !== owner) return;
      this.#owner = null;
      this.#set({ ...this.#snapshot, owner: false });
    }, { once: true });
    // What the last owner saw of the line is gone with it; the call stands until the server says otherwise.
    const { call } = this.#snapshot;
    this.#set({ ...this.#snapshot, ...QUIET, owner: true, call: call && { ...call, line: "rejoining" } });
    owner.on("change", (part) => {
      const merged = part.call ? { ...this.#snapshot.call, ...part.call } : part.call;
      this.#set({ ...this.#snapshot, ...part, ...(part.call === undefined ? {} : { call: merged }) });
      this.#publish();
    });
    owner.on("event", (event) => {
      this.#tabs.publish({ kind: "event", event });
      this.#dispatch(event);
    });
    owner.on("error", (error) => {
      this.#tabs.publish({ kind: "event", error });
      this.#fail(error);
    });
    owner.start();
  }

  #publish() {
    this.#tabs?.publish({ kind: "state", snapshot: this.#snapshot });
  }

  #hear(message) {
    if (message.kind === "state") this.#set({ ...message.snapshot, owner: false });
    else if (message.error) this.#fail(message.error);
    else this.#dispatch(message.event);
  }

  #set(snapshot) {
    this.#snapshot = snapshot;
    this.emit("change", snapshot);
    document.dispatchEvent(new CustomEvent("hub:phone", { detail: snapshot }));
  }

  #dispatch(event) {
    this.emit("event", event);
    document.dispatchEvent(new CustomEvent("hub:event", { detail: event }));
    document.dispatchEvent(new CustomEvent(`hub:event:${event.type}`, { detail: event }));
  }

  #fail(error) {
    this.emit("error", error);
    document.dispatchEvent(new CustomEvent("hub:phone-error", { detail: error }));
  }
}
