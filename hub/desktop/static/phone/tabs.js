/**
 * One tab owns the phone line and the event stream; the others follow it.
 *
 * The owner is the tab that holds the Web Lock. The browser gives the lock to the next tab in the queue the moment the
 * holder closes, crashes or reloads, so there is no heartbeat and no election of our own. A tab that holds a Web Lock
 * is also exempt from Chrome's freezing of background tabs (Chrome 133, Energy Saver).
 *
 * All tabs talk over one BroadcastChannel:
 *   hello   a tab came or became visible; the owner answers with `state`
 *   state   the owner's snapshot, after every change
 *   event   one event of the stream, for every tab's page
 *   command / ack / result   a tab asks the owner to do something
 *
 * A command without an ack is sent again to the next owner. One that was taken up when its owner died is not repeated
 * (it may have dialled): it fails with `owner_lost` and the server's state shows what came of it.
 * An owner that does not answer at all (its page hangs) loses the lock to the tab that asked.
 */
import { Emitter } from "./emitter.js";
import { PhoneError, plainError } from "./errors.js";


/**
 * Events: owner (AbortSignal: fires when the ownership ends), hello (owner only: another tab wants the snapshot),
 * message {kind: "state" | "event", ...} (followers only).
 */
export class Tabs extends Emitter {
  #name;
  #answerMs;
  #channel = null;
  #stopped = false;
  #term = null;
  #queued = null;
  #pending = new Map();
  #answer = async () => {};
  #probe = null;

  /** @param answerMs how long the owner may be silent when asked, before its phone is taken from it */
  constructor(name, { answerMs }) {
    super();
    this.#name = name;
    this.#answerMs = answerMs;
    this.id = crypto.randomUUID();
  }

  get owner() {
    return this.#term !== null;
  }

  /** @param answer async (name, args) => value; carries out a command while this tab is the owner */
  start(answer) {
    this.#answer = answer;
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.addEventListener("message", ({ data }) => this.#receive(data));
    this.#post({ kind: "hello" });
    // Without locks (plain http on another machine) there is no microphone either: each tab serves itself.
    if (navigator.locks) this.#queue({});
    else this.#become();
  }

  stop() {
    this.#stopped = true;
    this.#queued?.abort();
    this.#term?.abort();
    this.#term = null;
    clearTimeout(this.#probe);
    this.#channel?.close();
    for (const { reject } of this.#pending.values()) reject(new PhoneError("owner_lost"));
    this.#pending.clear();
  }

  /** Tells every other tab; only the owner does. */
  publish(message) {
    this.#post(message);
  }

  /** Runs the command here if this tab is the owner, else asks the owner. */
  command(name, args = {}) {
    if (this.owner) return this.#answer(name, args);
    return new Promise((resolve, reject) => {
      const command = { id: crypto.randomUUID(), name, args };
      this.#pending.set(command.id, { command, resolve, reject, acked: false });
      this.#ask(command);
    });
  }

  /** Asks for a sign of life: a page that hangs, and so keeps the lock without serving it, must not keep the phone. */
  probe() {
    if (this.owner || this.#probe !== null || !navigator.locks) return;
    this.#post({ kind: "hello" });
    this.#expectSign();
  }

  #expectSign() {
    this.#probe ??= setTimeout(() => {
      this.#probe = null;
      if (!this.owner) this.#queue({ steal: true });
    }, this.#answerMs);
  }

  #queue({ steal = false }) {
    this.#queued?.abort();
    this.#queued = new AbortController();
    const options = steal ? { steal } : { signal: this.#queued.signal };
    let term = null;
    const held = () => {
      term = this.#become();
      return new Promise((resolve) => term.signal.addEventListener("abort", resolve, { once: true }));
    };
    navigator.locks.request(this.#name, options, held).catch(() => {
      // Not granted: this request was withdrawn. Granted: another tab took the lock, because this one did not answer.
      if (!term) return;
      term.abort();
      if (this.#term === term) this.#term = null;
      if (this.#stopped) return;
      this.#post({ kind: "hello" });
      this.#queue({});
    });
  }

  #become() {
    const term = new AbortController();
    this.#term = term;
    clearTimeout(this.#probe);
    this.#probe = null;
    this.emit("owner", term.signal);
    this.#post({ kind: "new_owner" });
    for (const { command, resolve, reject, acked } of this.#pending.values()) {
      if (acked) reject(new PhoneError("owner_lost"));
      else this.#answer(command.name, command.args).then(resolve, reject);
    }
    this.#pending.clear();
    return term;
  }

  #ask(command) {
    this.#post({ kind: "command", ...command });
    if (navigator.locks) this.#expectSign();
  }

  #post(message) {
    this.#channel?.postMessage({ ...message, from: this.id });
  }

  async #receive(message) {
    if (this.owner) {
      if (message.kind === "hello") this.emit("hello");
      if (message.kind === "command") await this.#serve(message);
      return;
    }
    if (message.kind === "hello" || message.kind === "command") return;
    // Whatever an owner says is its sign of life.
    clearTimeout(this.#probe);
    this.#probe = null;
    const waiting = this.#pending.get(message.id);
    if (message.kind === "ack" && waiting) waiting.acked = true;
    else if (message.kind === "result" && waiting) this.#settle(message, waiting);
    else if (message.kind === "new_owner") this.#askAgain();
    else if (message.kind === "state" || message.kind === "event") this.emit("message", message);
  }

  #settle(message, { resolve, reject }) {
    this.#pending.delete(message.id);
    if (message.error) reject(new PhoneError(message.error.code, message.error.detail));
    else resolve(message.value);
  }

  #askAgain() {
    for (const [id, { command, reject, acked }] of this.#pending) {
      if (acked) {
        this.#pending.delete(id);
        reject(new PhoneError("owner_lost"));
      } else {
        this.#ask(command);
      }
    }
  }

  async #serve({ id, name, args }) {
    this.#post({ kind: "ack", id });
    try {
      const value = await this.#answer(name, args);
      this.#post({ kind: "result", id, value });
    } catch (error) {
      this.#post({ kind: "result", id, error: plainError(error) });
    }
  }
}
