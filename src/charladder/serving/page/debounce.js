// A debounced task: only the last request runs, after a delay, and it aborts the one before.

export class DebouncedTask {
  #timer = 0;
  #running = null;

  /** Runs `work(signal)` after `delay` ms, unless another request comes first. */
  request(delay, work) {
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
