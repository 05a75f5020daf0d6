/** Rings while any reason to ring is left. A browser that refuses sound before the first click is asked again on it. */
export class Ringer {
  #audio;
  #reasons = new Set();
  #onBlocked;

  constructor(url, onBlocked) {
    this.#audio = new Audio();
    this.#audio.preload = "auto";
    this.#audio.loop = true;
    this.#audio.src = url;
    this.#onBlocked = onBlocked;
  }

  ring(reason, wanted) {
    if (wanted) this.#reasons.add(reason);
    else this.#reasons.delete(reason);
    if (this.#reasons.size > 0) this.#play();
    else this.quiet();
  }

  get ringing() {
    return this.#reasons.size > 0;
  }

  quiet() {
    this.#reasons.clear();
    this.#audio.pause();
    this.#audio.currentTime = 0;
  }

  #play() {
    if (!this.#audio.paused) return;
    this.#audio.play().then(() => this.#onBlocked(false), (error) => {
      if (error.name !== "NotAllowedError") return; // AbortError: quiet() came while it was starting
      this.#onBlocked(true);
      document.addEventListener("pointerdown", () => this.ringing && this.#play(), { once: true });
    });
  }
}
