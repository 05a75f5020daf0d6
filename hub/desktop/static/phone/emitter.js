/** Named events with any number of listeners. A listener that throws does not silence the others. */
export class Emitter {
  #listeners = new Map();

  /** Adds a listener and gives the function that takes it off again. */
  on(name, listener) {
    const listeners = this.#listeners.get(name) ?? new Set();
    listeners.add(listener);
    this.#listeners.set(name, listeners);
    return () => listeners.delete(listener);
  }

  /** Resolves with the next value of this event. */
  once(name) {
    return new Promise((resolve) => {
      const off = this.on(name, (value) => {
        off();
        resolve(value);
      });
    });
  }

  emit(name, value) {
    for (const listener of [...(this.#listeners.get(name) ?? [])]) {
      try {
        listener(value);
      } catch (error) {
        // Reported as an uncaught error, so that it is seen, but after the others have had their turn.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}
