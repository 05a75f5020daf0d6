/**
 * How a call sounded, told to the hub: warnings of the line as they come, and a summary at the end.
 *
 * Twilio's SDK: "warning" and "warning-cleared" (names such as high-rtt, high-jitter, low-mos, constant-audio-input-level) and
 * "sample" once a second {mos, rtt, jitter, packetsLostFraction} (twilio.com/docs/voice/sdks/javascript/twiliocall#events).
 */
const SOON_MS = 5000;

export class CallQuality {
  #began = performance.now();
  #warnings = {};
  #lost = 0;
  #samples = 0;
  #sums = { mos: 0, rtt: 0, jitter: 0, loss: 0 };
  #worst = { mos: null, rtt: 0, jitter: 0, loss: 0 };
  #send;
  #timer = null;

  /** @param send (report) => void; called soon after a warning, and at the end */
  constructor(send) {
    this.#send = send;
  }

  note({ level, name }) {
    // Without a microphone the sandbox's line says so by sound_…: that is no fault of the network.
    if (level === "good" || name.startsWith("sound_")) return;
    if (level === "lost") this.#lost += 1;
    this.#warnings[name] = (this.#warnings[name] ?? 0) + 1;
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.#send(this.report());
    }, SOON_MS);
  }

  sample({ mos, rtt, jitter, packetsLostFraction }) {
    const seen = { mos, rtt, jitter, loss: packetsLostFraction };
    if (!Object.values(seen).every(Number.isFinite)) return;
    this.#samples += 1;
    for (const [name, value] of Object.entries(seen)) this.#sums[name] += value;
    this.#worst.mos = Math.min(this.#worst.mos ?? mos, mos);
    for (const name of ["rtt", "jitter", "loss"]) this.#worst[name] = Math.max(this.#worst[name], seen[name]);
  }

  end() {
    clearTimeout(this.#timer);
    this.#send(this.report());
  }

  report() {
    const mean = (name) => (this.#samples ? this.#sums[name] / this.#samples : null);
    return {
      seconds: Math.round((performance.now() - this.#began) / 1000),
      warnings: this.#warnings,
      lost: this.#lost,
      samples: this.#samples,
      mos: mean("mos"),
      rtt_ms: mean("rtt"),
      jitter_ms: mean("jitter"),
      loss_percent: mean("loss"),
      worst: this.#worst,
    };
  }
}
