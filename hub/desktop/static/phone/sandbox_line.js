/**
 * The sandbox's line: a WebSocket to the local twin of the outside world (the whole protocol stands in
 * hub/sandbox/line.py), sound by WebRTC where both ends have it.
 *
 * `ref` names a connect whose call has no id yet. `peers` says whom the call is connected with, `signal` is carried
 * between them unread. After a lost socket the line registers again and sends `resume` for its call; the twin answers
 * `accepted`, or error 31005 if the call is gone.
 */
import { Emitter } from "./emitter.js";
import { PhoneError, withDeadline } from "./errors.js";
import { openMicrophone, PeerSound } from "./peer_sound.js";

const CONNECT_MS = 10_000;
const TOKEN_REFUSED = 4001;
const NO_SUCH_CALL = 31005;
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
      const params = { From: message.from, To: message.to, ...message.params };
      const call = new SandboxCall(this, { id: message.call, direction: "in", params });
      if (this.busy) call.reject();
      else this.emit("incoming", this.#take(call));
      return;
    }
    const call = [...this.#calls].find((one) => one.is(message));
    if (call) call.receive(message);
    else if (message.type === "error" && !message.call) this.emit("error", { code: "call_failed", detail: "" });
  }

  #take(call) {
    this.#calls.add(call);
    call.on("disconnected", () => this.#calls.delete(call));
    return call;
  }
}

class SandboxCall extends Emitter {
  #line;
  #open = false;
  #over = false;
  #muted = false;
  #waiting = [];
  #microphone = null;
  #sounds = new Map();

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

  is(message) {
    return this.id === null ? message.ref === this.ref : message.call === this.id;
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
    this.#microphone?.then((stream) => this.#silence(stream));
    this.#tell({ type: "mute", muted });
    this.emit("mute", muted);
  }

  digits(digits) {
    if (!/^[0-9*#w]+$/.test(digits)) throw new PhoneError("call_failed");
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
      case "peers":
        this.#meet(message.peers.map(({ call }) => call));
        break;
      case "signal":
        this.#sound(message.from).receive(message.data);
        break;
      case "error":
        if (message.code === NO_SUCH_CALL) this.#end(this.#open ? "remote" : "failed");
        else if (!this.#open) this.#end("failed");
        else this.emit("error", { code: "call_failed", detail: "" });
        break;
      case "disconnected":
        this.#end(this.direction === "in" && !this.#open ? "cancelled" : "remote");
        break;
    }
  }

  #accepted() {
    if (this.#open) {
      this.emit("quality", { level: "good", name: "reconnected" });
      return;
    }
    this.#open = true;
    this.emit("accepted");
  }

  #silence(stream) {
    for (const track of stream?.getAudioTracks() ?? []) track.enabled = !this.#muted;
  }

  /** One connection of sound to each of those that the call is connected with; no sound never ends the call. */
  #meet(peers) {
    for (const [peer, sound] of this.#sounds) {
      if (peers.includes(peer)) continue;
      sound.close();
      this.#sounds.delete(peer);
    }
    for (const peer of peers) if (!this.#sounds.has(peer)) this.#sound(peer).start();
  }

  #sound(peer) {
    const known = this.#sounds.get(peer);
    if (known) return known;
    this.#microphone ??= openMicrophone().then((stream) => {
      if (this.#over) stream?.getTracks().forEach((track) => track.stop());
      this.#silence(stream);
      return stream;
    });
    const sound = new PeerSound((data) => this.#tell({ type: "signal", data, to: peer }), this.#microphone);
    sound.on("state", (state) => {
      this.emit("quality", { level: state === "none" ? "poor" : "good", name: `sound_${state}` });
    });
    this.#sounds.set(peer, sound);
    return sound;
  }

  #tell(message) {
    if (this.id === null) this.#waiting.push(message);
    else this.#line.send({ ...message, call: this.id });
  }

  #end(reason) {
    if (this.#over) return;
    this.#over = true;
    for (const sound of this.#sounds.values()) sound.close();
    this.#microphone?.then((stream) => stream?.getTracks().forEach((track) => track.stop()));
    this.emit("disconnected", { reason });
  }
}
