/** Rings while any reason to ring is left. A browser that refuses sound before the first click is asked again on it. */
export class Ringer {
  #audio = new Audio();
  #reasons = new Map();
  #say;
  #waits = false;

  /** @param say called with {ringing, soundBlocked} when either changes */
  constructor(url, say) {
    this.#audio.preload = "auto";
    this.#audio.loop = true;
    this.#audio.src = url;
    this.#say = say;
  }

  get #wanted() {
    return [...this.#reasons.values()].some(Boolean);
  }

  ring(reason, wanted) {
    this.#reasons.set(reason, wanted);
    if (!this.#wanted) this.quiet();
    else if (this.#audio.paused) this.#play();
  }

  /** Offers come and go by events; the server's state says whether any of them still rings. */
  offers(ringing) {
    for (const reason of this.#reasons.keys()) if (reason.startsWith("offer")) this.#reasons.delete(reason);
    this.ring("offers", ringing);
  }

  quiet() {
    this.#reasons.clear();
    if (this.#audio.paused) return;
    this.#audio.pause();
    this.#audio.currentTime = 0;
    this.#say({ ringing: false });
  }

  async #play() {
    try {
      await this.#audio.play();
      this.#say({ ringing: true, soundBlocked: false });
    } catch (error) {
      // AbortError: quiet() came while it was starting.
      if (error.name !== "NotAllowedError" || this.#waits) return;
      this.#waits = true;
      this.#say({ soundBlocked: true });
      const again = () => {
        this.#waits = false;
        if (this.#wanted) this.#play();
        else this.#say({ soundBlocked: false });
      };
      document.addEventListener("pointerdown", again, { once: true });
    }
  }
}
