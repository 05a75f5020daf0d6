/**
 * The sandbox's line: a WebSocket to the local twin of the outside world, sound by WebRTC where both ends have it.
 *
 * One JSON object per message. To the twin:
 *   {type: "connect", params, ref} | {type: "accept" | "reject" | "hangup" | "resume", call}
 *   {type: "mute", call, muted} | {type: "digits", call, digits} | {type: "signal", call, data}
 * From the twin:
 *   {type: "registered"}
 *   {type: "ringing" | "accepted", call, ref?} | {type: "incoming", call, params}
 *   {type: "disconnected", call, reason?} | {type: "mute", call, muted}
 *   {type: "error", call?, ref?, code?, detail?} | {type: "signal", call, data}
 * `ref` names a connect whose call has no id yet. `signal` is carried between the two ends unread. After a lost socket
 * the line registers again and sends `resume` for its call; the twin answers `accepted` or `disconnected`.
 * A socket closed with code 4401 means that the token was refused.
 */
import { Emitter } from "./emitter.js";
import { PhoneError, withDeadline } from "./errors.js";
import { PeerSound } from "./peer_sound.js";

const CONNECT_MS = 10_000;
const TOKEN_REFUSED = 4401;
const RETRY_FIRST_MS = 200;
const RETRY_MAX_MS = 5000;

export class SandboxLine extends Emitter {
  rings = false;
  needsMicrophone = false;
  #grant;
  #options;
  #socket = null;
  #closed = false;
  #ready = false;
  #retryMs = RETRY_FIRST_MS;
  #retryTimer = null;
  #calls = new Set();

  constructor(grant, options) {
    super();
    this.#grant = grant;
    this.#options = options;
  }

  get busy() {
    return this.#calls.size > 0;
  }

  async register() {
    const ready = this.once("registered");
    this.#open();
    await withDeadline(ready, CONNECT_MS, "network");
  }

  async connect(params) {
    if (this.busy) throw new PhoneError("busy");
    if (!this.#ready) throw new PhoneError("not_ready");
    const call = this.#take(new SandboxCall(this, { ref: crypto.randomUUID(), direction: "out", params }));
    this.send({ type: "connect", params, ref: call.ref });
    return call;
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#retryTimer);
    for (const call of this.#calls) call.hangup();
    this.#socket?.close();
  }

  send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #open() {
    this.emit("state", { state: "registering" });
    const url = new URL(this.#grant.line.url);
    url.searchParams.set("token", this.#grant.token);
    const socket = new WebSocket(url);
    this.#socket = socket;
    socket.addEventListener("message", ({ data }) => this.#receive(JSON.parse(data)));
    socket.addEventListener("close", ({ code }) => {
      if (socket === this.#socket && !this.#closed) this.#lost(code);
    });
  }

  #lost(closeCode) {
    this.#ready = false;
    const refused = closeCode === TOKEN_REFUSED;
    this.emit("state", { state: "error", code: refused ? "token_expired" : "network" });
    for (const call of this.#calls) call.lost();
    this.#retryTimer = setTimeout(() => this.#again(refused), this.#retryMs);
    this.#retryMs = Math.min(this.#retryMs * 2, RETRY_MAX_MS);
  }

  async #again(renew) {
    try {
      if (renew) this.#grant = await this.#options.renew();
      if (!this.#closed) this.#open();
    } catch {
      if (!this.#closed) this.#lost(renew ? TOKEN_REFUSED : 0);
    }
  }

  #receive(message) {
    if (message.type === "registered") {
      this.#ready = true;
      this.#retryMs = RETRY_FIRST_MS;
      this.emit("state", { state: "ready" });
      this.emit("registered");
      for (const call of this.#calls) call.resume();
      return;
    }
    if (message.type === "incoming") {
      const call = new SandboxCall(this, { id: message.call, direction: "in", params: message.params ?? {} });
      if (this.busy) call.reject();
      else this.emit("incoming", this.#take(call));
      return;
    }
    const call = [...this.#calls].find((one) => one.is(message));
    if (call) call.receive(message);
    else if (message.type === "error") this.emit("error", { code: message.code ?? "server", detail: message.detail ?? "" });
  }

  #take(call) {
    this.#calls.add(call);
    call.on("disconnected", () => this.#calls.delete(call));
    return call;
  }
}

class SandboxCall extends Emitter {
  #line;
  #sound = null;
  #open = false;
  #over = false;
  #muted = false;
  #waiting = [];

  constructor(line, { id = null, ref = null, direction, params }) {
    super();
    this.#line = line;
    this.id = id;
    this.ref = ref;
    this.direction = direction;
    this.params = params;
  }

  get muted() {
    return this.#muted;
  }

  get open() {
    return this.#open && !this.#over;
  }

  /** The sound of this call, for tests and a quality display; null before it is accepted. */
  get sound() {
    return this.#sound;
  }

  is(message) {
    return message.call === this.id || (this.ref !== null && message.ref === this.ref);
  }

  accept() {
    this.#tell({ type: "accept" });
  }

  reject() {
    this.#tell({ type: "reject" });
    this.#end("local");
  }

  mute(muted) {
    if (muted === this.#muted) return;
    this.#muted = muted;
    this.#sound?.mute(muted);
    this.#tell({ type: "mute", muted });
    this.emit("mute", muted);
  }

  digits(digits) {
    if (!/^[0-9*#w]+$/.test(digits)) throw new PhoneError("call_failed", digits);
    this.#tell({ type: "digits", digits });
  }

  hangup() {
    this.#tell({ type: "hangup" });
    this.#end("local");
  }

  lost() {
    this.emit("quality", { level: "lost", name: "reconnecting" });
  }

  /** After a new socket: the twin says whether the call is still there. A connect it never saw has failed. */
  resume() {
    if (this.id !== null) this.#tell({ type: "resume" });
    else this.#end("failed");
  }

  receive(message) {
    if (this.id === null && message.call) {
      this.id = message.call;
      for (const waiting of this.#waiting.splice(0)) this.#tell(waiting);
    }
    switch (message.type) {
      case "ringing":
        this.emit("ringing");
        break;
      case "accepted":
        this.#accepted();
        break;
      case "mute":
        if (message.muted !== this.#muted) {
          this.#muted = message.muted;
          this.#sound?.mute(message.muted);
          this.emit("mute", message.muted);
        }
        break;
      case "signal":
        this.#sound?.receive(message.data);
        break;
      case "error":
        this.emit("error", { code: message.code ?? "call_failed", detail: message.detail ?? "" });
        if (!this.#open) this.#end("failed");
        break;
      case "disconnected":
        this.#end(message.reason === "cancelled" ? "cancelled" : "remote");
        break;
    }
  }

  #accepted() {
    if (this.#open) {
      this.emit("quality", { level: "good", name: "reconnected" });
      return;
    }
    this.#open = true;
    this.#sound = new PeerSound((data) => this.#tell({ type: "signal", data }), { muted: this.#muted });
    // No sound is worth a sign, never the call: the twin's far end may be a test, or a page without a microphone.
    this.#sound.on("state", (state) => this.emit("quality", { level: state === "none" ? "poor" : "good", name: `sound_${state}` }));
    this.#sound.start();
    this.emit("accepted");
  }

  #tell(message) {
    if (this.id === null) this.#waiting.push(message);
    else this.#line.send({ ...message, call: this.id });
  }

  #end(reason) {
    if (this.#over) return;
    this.#over = true;
    this.#sound?.close();
    this.emit("disconnected", { reason });
  }
}
