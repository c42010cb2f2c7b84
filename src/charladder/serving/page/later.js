// Work that is asked for often and done once, a moment later; what is new stops what is under way.

export class Later {
  #timer = 0;
  #running = null;

  /** Runs `work(signal)` after `delay` ms, unless it is asked for again before. */
  ask(delay, work) {
    this.stop();
    this.#timer = setTimeout(() => {
      this.#running = new AbortController();
      work(this.#running.signal);
    }, delay);
  }

  stop() {
    clearTimeout(this.#timer);
    this.#running?.abort();
  }
}
