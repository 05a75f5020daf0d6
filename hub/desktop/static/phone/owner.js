/**
 * What the owning tab does: it holds the line and the event stream, carries out commands, and keeps the call on the
 * line in step with the call that the server says this agent has. The server's word counts.
 *
 * Lost calls: whenever the line has no call but the server has one for this agent (reload, dead tab, lost network),
 * the owner connects again with the server's `rejoin_params`; the TwiML App answers with the same conference.
 */
import { api } from "./api.js";
import { Emitter } from "./emitter.js";
import { PhoneError, plainError, withDeadline } from "./errors.js";
import { openLine } from "./phone.js";
import { CallQuality } from "./quality.js";
import { Ringer } from "./ringer.js";
import { EventStream } from "./stream.js";

const JOIN_MS = 15_000;
const READY_MS = 5000;
const REGISTER_RETRY_MS = [500, 1000, 2000, 5000, 15_000, 30_000];
const WILL_NOT_HELP = new Set(["insecure_context", "signed_out", "not_allowed"]);
// First pause: none after a failure. After a clean hang-up the customer has probably gone too, and the server is about
// to hear of it; asking at once would join a conference that is just ending.
const REJOIN_MS = { failed: [0, 500, 1000, 2000, 4000, 8000], remote: [700, 1000, 2000, 4000, 8000] };
const END_WAITS_MS = 2000;
const ELSEWHERE_MS = 4000;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Events: change (partial snapshot), event (one of the stream), error {code, detail}. */
export class Owner extends Emitter {
  #config;
  #signal;
  #line = null;
  #lineReady = Promise.withResolvers();
  #known = null;
  #call = null;
  #server = null;
  #heard = null; // which call the line's sound belongs to
  #stream;
  #ringer;
  #refreshing = null;
  #again = false;
  #rejoining = false;
  #joining = null;
  #ended = new Set();
  #asking = 0;

  /** @param last the snapshot that this tab had as a follower: where the stream stood, whether it was muted */
  constructor(config, last, signal) {
    super();
    this.#config = config;
    this.#signal = signal;
    this.#stream = new EventStream(config.events, last.after);
    this.#ringer = new Ringer(`${config.assets}/phone/sounds/incoming.wav`, (part) => this.#change(part));
    signal.addEventListener("abort", () => this.#stop(), { once: true });
  }

  start() {
    this.#known = this.#refresh();
    this.#stream.on("status", (stream) => this.#change({ stream }));
    this.#stream.on("event", (event) => this.#take(event));
    this.#stream.on("refused", () => this.#refresh());
    this.#stream.open();
    this.#register();
  }

  /** Carries out one command; what it gives back goes to the tab that asked. */
  async run(name, args) {
    // A tab that has just taken over first learns what call there is.
    await this.#known;
    switch (name) {
      case "accept": return this.#accept(args.offer, args.who);
      case "dial": return this.#dial(args);
      case "answer": return this.#incoming().accept();
      case "reject": return this.#incoming().reject();
      case "hangup": return this.#hangup();
      case "mute": return this.#mute(args.on);
      case "hold": return this.#hold(args.on);
      case "digits": return this.#onLine().digits(args.digits);
      case "rejoin": return this.#rejoinByHand();
      case "refresh": return this.#refresh();
      default: throw new PhoneError("server", `unknown command ${name}`);
    }
  }

  #stop() {
    this.#stream.close();
    this.#ringer.quiet();
    this.#line = null;
  }

  #change(part) {
    if (!this.#signal.aborted) this.emit("change", { ...part, after: this.#stream.lastId });
  }

  #say(error) {
    if (!this.#signal.aborted) this.emit("error", plainError(error));
  }

  // ---- the line

  async #register(attempt = 0) {
    let line = null;
    try {
      if (!window.isSecureContext) throw new PhoneError("insecure_context");
      const grant = await api.token();
      if (this.#signal.aborted) return;
      if (grant.line.kind === "none") {
        this.#change({ line: { kind: "none", state: "off", code: grant.line.code ?? "" } });
        return;
      }
      this.#change({ line: { kind: grant.line.kind, state: "registering", code: "" } });
      line = openLine(grant, { renew: api.token, assets: this.#config.assets, device: this.#config.device });
      this.#signal.addEventListener("abort", () => line.close(), { once: true });
      line.on("state", ({ state, code = "" }) => this.#change({ line: { kind: grant.line.kind, state, code } }));
      line.on("error", (error) => this.#say(error));
      line.on("incoming", (call) => this.#onIncoming(call, !line.rings));
      await line.register();
      this.#line = line;
      this.#lineReady.resolve();
      this.#catchUp();
    } catch (error) {
      line?.close();
      this.#change({ line: { kind: "", state: "error", code: error.code ?? "not_ready" } });
      if (this.#signal.aborted || WILL_NOT_HELP.has(error.code)) return;
      await pause(REGISTER_RETRY_MS[Math.min(attempt, REGISTER_RETRY_MS.length - 1)]);
      this.#register(attempt + 1);
    }
  }

  /** Puts a call on the line and waits until it is joined. */
  async #join(params, muted) {
    if (!this.#line) throw new PhoneError("not_ready");
    const call = await this.#line.connect(params);
    this.#follow(call);
    // Before the first word is carried: who was muted when the tab reloaded stays muted.
    if (muted) call.mute(true);
    const accepted = call.once("accepted");
    const over = call.once("disconnected").then(({ reason }) => {
      throw new PhoneError(reason === "local" ? "hung_up" : (call.failure ?? "call_failed"));
    });
    try {
      await withDeadline(Promise.race([accepted, over]), JOIN_MS, "connect_timeout");
    } catch (error) {
      call.hangup();
      throw error;
    }
    performance.mark("hub-phone-joined");
  }

  #follow(call) {
    this.#call = call;
    const show = (part) => this.#call === call && this.#show(part);
    show({ line: "joining", muted: call.muted, quality: "good" });
    call.on("ringing", () => show({ line: "ringing" }));
    call.on("accepted", () => show({ line: "live" }));
    call.on("mute", (muted) => show({ muted }));
    call.on("quality", ({ level, name }) => show({ quality: level, qualityName: name }));
    // The server names the call after the line is up, and forgets it before the line is down.
    const heard = { about: this.#server?.interaction_id ?? null };
    this.#heard = heard;
    const quality = new CallQuality((report) => {
      // What the supervisor sees later must not disturb the agent now.
      if (heard.about) api.quality(heard.about, report).catch(() => {});
    });
    call.on("quality", (change) => quality.note(change));
    call.on("sample", (sample) => quality.sample(sample));
    call.on("disconnected", () => quality.end());
    call.on("error", (error) => {
      call.failure = error.code;
      this.#say(error);
    });
    call.on("disconnected", ({ reason }) => this.#onDisconnected(call, reason));
  }

  #onDisconnected(call, reason) {
    if (this.#call !== call) return;
    this.#call = null;
    this.#ringer.ring("incoming", false);
    this.#change({ incoming: null });
    if (this.#signal.aborted || this.#joining || this.#rejoining) return;
    if (reason === "local" || reason === "cancelled") this.#refresh();
    else this.#rejoin(reason);
  }

  #onIncoming(call, ring) {
    this.#follow(call);
    this.#ringer.ring("incoming", ring);
    this.#show({ line: "incoming", customer: null, direction: "in" });
    this.#change({ incoming: { params: call.params } });
    call.on("accepted", () => {
      this.#ringer.ring("incoming", false);
      this.#change({ incoming: null });
      this.#refresh();
    });
  }

  #incoming() {
    if (!this.#call || this.#call.direction !== "in") throw new PhoneError("no_call");
    return this.#call;
  }

  #onLine() {
    if (!this.#call?.open) throw new PhoneError("no_call");
    return this.#call;
  }

  // ---- commands

  #accept(offer, who) {
    return this.#once(`accept ${offer}`, () => this.#place(() => api.accept(offer), { offer, direction: "in" }, who));
  }

  #dial({ name, number, ...request }) {
    const who = { name, number: number ?? request.to };
    return this.#once(`dial ${request.to}`, () => this.#place(() => api.dial(request), { direction: "out" }, who));
  }

  /** The second click of a double click, and the same click in another tab, share the first one's fate. */
  #once(key, place) {
    if (this.#joining?.key === key) return this.#joining.promise;
    if (this.#call || this.#joining) return Promise.reject(new PhoneError("busy"));
    const promise = place().finally(() => {
      this.#joining = null;
      this.#refresh();
    });
    this.#joining = { key, promise };
    return promise;
  }

  /** @param who {name, number}: whom the bar names from the first moment on, until the server has answered */
  async #place(ask, shown, { name, number } = {}) {
    await withDeadline(this.#lineReady.promise, READY_MS, "not_ready");
    await this.#microphone();
    this.#ringer.quiet();
    const customer = name || number ? { name: name || number, number: name ? (number ?? "") : "" } : null;
    this.#show({ ...shown, line: "joining", customer, muted: false, held: false });
    try {
      const answer = await ask();
      if (answer.call) {
        this.#server = answer.call;
        this.#show({ ...answer.call, rejoin_params: undefined });
      }
      // Who takes calls on a telephone is rung there: nothing joins here, and the server's word says how it goes on.
      if (answer.connect) await this.#join(answer.connect, false);
    } catch (error) {
      if (!this.#server) this.#change({ call: null });
      if (error.code !== "hung_up") throw error;
    }
  }

  /** A call that the agent could not speak in must not be taken: the browser's refusal is known before. */
  async #microphone() {
    const permission = await navigator.permissions?.query({ name: "microphone" }).catch(() => null);
    if (permission?.state === "denied" && this.#line.needsMicrophone) throw new PhoneError("microphone_refused");
  }

  async #hangup() {
    const id = this.#server?.interaction_id ?? null;
    if (!this.#call && id === null) throw new PhoneError("no_call");
    if (this.#call?.direction === "in" && !this.#call.open) return this.#call.reject();
    try {
      // First the server: it ends the conference. The agent's leg alone would leave the customer with hold music.
      if (id !== null) {
        this.#ended.add(id);
        await withDeadline(api.end(id), END_WAITS_MS, "network");
      }
    } finally {
      this.#call?.hangup();
      this.#refresh();
    }
  }

  async #mute(on) {
    if (!this.#call?.open && !this.#wanted()) throw new PhoneError("no_call");
    // The line first, whatever the server says; while it is being joined again, it is joined as muted as wanted.
    this.#call?.mute(on);
    this.#show({ muted: on });
    if (!this.#server) return;
    this.#server.muted = on;
    await api.mute(this.#server.interaction_id, on);
  }

  async #hold(on) {
    if (!this.#server) await this.#refresh(); // the line may be there before the server's word about it
    if (!this.#server) throw new PhoneError("no_call");
    await api.hold(this.#server.interaction_id, on);
    this.#server.held = on;
    this.#show({ held: on });
  }

  // ---- the server's word

  #take(event) {
    const { type, id, ring } = event;
    if (type === "offer" && ring !== undefined && !this.#joining) this.#ringer.ring(`offer ${id}`, ring);
    if (type === "call" || type === "offer" || type === "resync") this.#refresh();
    if (!this.#signal.aborted) this.emit("event", event);
    this.#change({});
  }

  /** Asks the server what call this agent has; many reasons to ask at once become one question and one more. */
  #refresh() {
    if (this.#refreshing) {
      this.#again = true;
      return this.#refreshing;
    }
    this.#refreshing = this.#ask().finally(() => {
      this.#refreshing = null;
      if (this.#again && !this.#signal.aborted) {
        this.#again = false;
        this.#refresh();
      }
    });
    return this.#refreshing;
  }

  async #ask() {
    let answer;
    try {
      answer = await api.state();
    } catch (error) {
      if (error.code === "signed_out") this.#signedOut(error);
      return;
    }
    this.#server = answer.call;
    if (answer.ringing !== undefined && !this.#signal.aborted && !this.#joining) this.#ringer.offers(answer.ringing);
    if (this.#server) {
      if (this.#call && this.#heard) this.#heard.about = this.#server.interaction_id;
      const { rejoin_params: _, muted, ...shown } = this.#server;
      const idle = !this.#call && !this.#joining && !this.#rejoining;
      // On the line the line knows best whether it is muted.
      if (idle) this.#show({ line: this.#wanted() ? "rejoining" : this.#server.elsewhere ? "elsewhere" : "none" });
      if (idle && this.#server.elsewhere) this.#askLater();
      this.#show(this.#call ? shown : { ...shown, muted });
      this.#catchUp();
    } else if (!this.#call && !this.#joining) {
      this.#change({ call: null });
    }
  }

  /** Another machine has the call: should it die, its leg's end is no news of the stream. */
  #askLater() {
    clearTimeout(this.#asking);
    this.#asking = setTimeout(() => this.#signal.aborted || this.#refresh(), ELSEWHERE_MS);
  }

  #signedOut(error) {
    this.#stream.close();
    this.#change({ stream: "lost", line: { kind: "", state: "off", code: "signed_out" } });
    this.#say(error);
  }

  /** Joins the call that the server has for this agent and the line has not. */
  #catchUp() {
    if (this.#wanted() && this.#line && !this.#rejoining && !this.#signal.aborted) this.#rejoin("failed");
  }

  async #rejoinByHand() {
    this.#ended.clear();
    await api.state(true);
    return this.#rejoin("failed");
  }

  #wanted() {
    const call = this.#server;
    return Boolean(call?.rejoin_params && !this.#call && !this.#joining && !this.#ended.has(call.interaction_id));
  }

  async #rejoin(reason) {
    if (this.#rejoining) return;
    this.#rejoining = true;
    this.#show({ line: "rejoining" });
    try {
      for (const wait of REJOIN_MS[reason] ?? REJOIN_MS.failed) {
        await pause(wait);
        this.#server = (await api.state().catch(() => ({ call: this.#server }))).call;
        if (this.#signal.aborted || !this.#wanted()) break;
        try {
          await this.#join(this.#server.rejoin_params, this.#server.muted);
          break;
        } catch (error) {
          if (error.code === "hung_up") break;
          if (error.code === "microphone_refused") throw error;
        }
      }
      if (this.#wanted() && !this.#signal.aborted) throw new PhoneError("rejoin_failed");
    } catch (error) {
      this.#show({ line: "lost" });
      this.#say(error);
      return;
    } finally {
      this.#rejoining = false;
    }
    this.#refresh();
  }

  #show(part) {
    this.#change({ call: part });
  }
}
