/**
 * Twilio's Voice JS SDK (2.18) behind the phone's small interface.
 *
 * Facts that shaped it, read from the SDK's source 2.18.5 on 2026-11-21:
 * - The constructor fetches all fifteen sounds, from Twilio's CDN unless each has a local address.
 * - The error level of its log writes to the console what it also reports as an event.
 * - `connect()` with an expired token never settles (twilio-voice.js issue 85), `tokenWillExpire` fires once only
 *   (issue 93), and a token changed during a call costs about a second of sound (Device.updateToken).
 * - `pagehide` hangs up and destroys the Device, so a reload always ends the agent's leg; the desktop joins again.
 */
import { Emitter } from "./emitter.js";
import { PhoneError, withDeadline } from "./errors.js";

const SOUNDS = [
  "incoming", "outgoing", "disconnect",
  "dtmf0", "dtmf1", "dtmf2", "dtmf3", "dtmf4", "dtmf5", "dtmf6", "dtmf7", "dtmf8", "dtmf9", "dtmfs", "dtmfh",
];
const CONNECT_MS = 10_000;
const REGISTER_MS = 15_000;
// A token is renewed when a tenth of its life is left, but never later than a minute and never earlier than five.
const RENEW_LEFT = 0.1;
const REFUSED_AGAIN_MS = 30_000;

/** SDK error codes (twilio.com/docs/voice/sdks/javascript/errors) to ours; what is missing here is `call_failed`. */
const CODES = new Map([
  [20101, "token_invalid"], [20102, "token_invalid"], [20103, "token_invalid"], [20151, "token_invalid"],
  [20104, "token_expired"], [31205, "token_expired"], [31204, "token_invalid"], [31201, "token_invalid"],
  [31401, "microphone_refused"], [31402, "microphone_missing"],
  [31000, "network"], [31003, "network"], [31005, "network"], [31009, "network"], [53000, "network"],
  [53001, "network"], [53405, "network"], [31486, "busy"],
]);

const codeOf = (error) => CODES.get(error?.code) ?? "call_failed";

/**
 * The SDK asks for the microphone inside `connect()`. A refusal that comes at once would be reported before `connect()`
 * has given us the call to listen to, so it waits for one turn.
 */
async function microphone(constraints) {
  try {
    return await navigator.mediaDevices.getUserMedia(constraints);
  } catch (error) {
    await new Promise((resolve) => setTimeout(resolve, 0));
    throw error;
  }
}

let sdk = null;

/** Loads the SDK once, and only where a tab really owns a Twilio line: it weighs 300 KB. */
function loadSdk(url) {
  sdk ??= new Promise((resolve, reject) => {
    if (globalThis.Twilio?.Device) return resolve(globalThis.Twilio.Device);
    const script = document.createElement("script");
    script.src = url;
    script.addEventListener("load", () => resolve(globalThis.Twilio.Device));
    script.addEventListener("error", () => {
      sdk = null;
      reject(new PhoneError("not_ready", url));
    });
    document.head.append(script);
  });
  return sdk;
}

export class TwilioLine extends Emitter {
  /** The SDK plays the incoming ring itself, and ends a call that has no microphone. */
  rings = true;
  needsMicrophone = true;
  #grant;
  #options;
  #device = null;
  #expiresAt = 0;
  #renewTimer = null;
  #renewedAt = 0;
  #renewWaits = false;
  #closed = false;
  #call = null;

  constructor(grant, options) {
    super();
    this.#options = options;
    this.#note(grant);
  }

  get busy() {
    return this.#call !== null;
  }

  async register() {
    const Device = await loadSdk(`${this.#options.assets}/vendor/twilio.min.js`);
    if (this.#closed) return;
    this.#build(Device);
    await withDeadline(this.#device.register(), REGISTER_MS, "network");
  }

  async connect(params) {
    if (this.#call) throw new PhoneError("busy");
    if (!this.#device) throw new PhoneError("not_ready");
    if (Date.now() > this.#expiresAt - 5000) await this.#renew();
    const strings = Object.fromEntries(Object.entries(params).map(([key, value]) => [key, String(value)]));
    let sdkCall;
    try {
      sdkCall = await withDeadline(this.#device.connect({ params: strings }), CONNECT_MS, "connect_timeout");
    } catch (error) {
      if (error.code === "connect_timeout") await this.#rebuild();
      throw error instanceof PhoneError ? error : new PhoneError(codeOf(error), error.message);
    }
    return this.#take(new TwilioCall(sdkCall, "out", strings));
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#renewTimer);
    this.#device?.destroy();
    this.#device = null;
    this.#call = null;
  }

  #build(Device) {
    const sounds = Object.fromEntries(SOUNDS.map((name) => [name, `${this.#options.assets}/phone/sounds/${name}.wav`]));
    const device = new Device(this.#grant.token, {
      appName: "contact-hub",
      codecPreferences: ["opus", "pcmu"],
      enableImprovedSignalingErrorPrecision: true,
      getUserMedia: microphone,
      logLevel: "silent",
      maxCallSignalingTimeoutMs: 30_000,
      sounds,
      ...this.#options.device,
    });
    this.#device = device;
    // Accepting an offer is not dialling: the agent hears the caller at once, not a dial tone of ours.
    device.audio.outgoing(false);
    device.on("registering", () => this.emit("state", { state: "registering" }));
    device.on("registered", () => this.emit("state", { state: "ready" }));
    device.on("unregistered", () => this.#closed || this.emit("state", { state: "off" }));
    device.on("tokenWillExpire", () => this.#renewalDue());
    device.on("error", (error) => this.#failed(error));
    device.on("incoming", (sdkCall) => {
      const params = Object.fromEntries(sdkCall.customParameters);
      this.emit("incoming", this.#take(new TwilioCall(sdkCall, "in", { ...sdkCall.parameters, ...params })));
    });
  }

  #take(call) {
    this.#call = call;
    call.on("disconnected", () => {
      if (this.#call === call) this.#call = null;
      if (this.#renewWaits && !this.#closed) this.#renewalDue();
    });
    return call;
  }

  #failed(error) {
    const code = codeOf(error);
    // The line is down until the token is fresh, so there is no call whose sound could suffer.
    if (code.startsWith("token_")) this.#renewRefused();
    if (this.#device?.state !== "registered") this.emit("state", { state: "error", code });
    this.emit("error", { code, detail: "" });
  }

  /** A fresh token at once; if that is refused too, the fault is not its age, and asking on would be a storm. */
  #renewRefused() {
    const wait = Date.now() - this.#renewedAt < REFUSED_AGAIN_MS ? REFUSED_AGAIN_MS : 0;
    clearTimeout(this.#renewTimer);
    this.#renewTimer = setTimeout(() => this.#renewalDue(), wait);
  }

  #report(cause) {
    const code = cause instanceof PhoneError ? cause.code : "network";
    if (!this.#closed) this.emit("state", { state: "error", code });
  }

  async #registerAgain() {
    if (this.#device?.state === "unregistered") await withDeadline(this.#device.register(), REGISTER_MS, "network");
  }

  async #rebuild() {
    this.#device?.destroy();
    this.#build(await loadSdk());
    await withDeadline(this.#device.register(), REGISTER_MS, "network").catch((cause) => this.#report(cause));
  }

  #note(grant) {
    this.#grant = grant;
    const life = grant.ttl_s * 1000;
    this.#expiresAt = Date.now() + life;
    const left = Math.min(Math.max(life * RENEW_LEFT, 60_000), 300_000, life / 2);
    clearTimeout(this.#renewTimer);
    this.#renewTimer = setTimeout(() => this.#renewalDue(), life - left);
  }

  #renewalDue() {
    this.#renewWaits = this.busy;
    if (this.busy || this.#closed) return;
    this.#renew().then(() => this.#registerAgain()).catch((cause) => this.#report(cause));
  }

  async #renew() {
    this.#renewedAt = Date.now();
    const grant = await this.#options.renew();
    if (this.#closed) return;
    this.#renewWaits = false;
    this.#note(grant);
    this.#device?.updateToken(grant.token);
  }
}

class TwilioCall extends Emitter {
  #call;
  #over = false;
  #local = false;
  #open = false;

  constructor(call, direction, params) {
    super();
    this.#call = call;
    this.direction = direction;
    this.params = params;
    call.on("ringing", () => this.emit("ringing"));
    call.on("accept", () => {
      this.#open = true;
      this.emit("accepted");
    });
    call.on("mute", (muted) => this.emit("mute", muted));
    call.on("disconnect", () => this.#end(this.#local ? "local" : "remote"));
    call.on("cancel", () => this.#end("cancelled"));
    call.on("reject", () => this.#end("local"));
    call.on("error", (error) => {
      this.emit("error", { code: codeOf(error), detail: "" });
      if (call.status() === "closed" || !this.#open) this.#end("failed");
    });
    call.on("reconnecting", () => this.emit("quality", { level: "lost", name: "reconnecting" }));
    call.on("reconnected", () => this.emit("quality", { level: "good", name: "reconnected" }));
    call.on("sample", (sample) => this.emit("sample", sample));
    call.on("warning", (name) => this.emit("quality", { level: "poor", name }));
    call.on("warning-cleared", (name) => this.emit("quality", { level: "good", name }));
  }

  get id() {
    return this.#call.parameters.CallSid ?? this.#call.outboundConnectionId;
  }

  get muted() {
    return this.#call.isMuted();
  }

  get open() {
    return this.#open && !this.#over;
  }

  accept() {
    this.#call.accept();
  }

  reject() {
    this.#local = true;
    this.#call.reject();
  }

  mute(muted) {
    this.#call.mute(muted);
  }

  digits(digits) {
    this.#call.sendDigits(digits);
  }

  hangup() {
    this.#local = true;
    this.#call.disconnect();
    // A call that never got as far as signalling has nothing to disconnect, and the SDK then says nothing.
    if (this.#call.status() === "closed" || this.#call.status() === "pending") this.#end("local");
  }

  #end(reason) {
    if (this.#over) return;
    this.#over = true;
    this.emit("disconnected", { reason });
  }
}
