"""Seconds of training, without the time for which the process was stopped (Ctrl-Z, SIGSTOP)."""

import signal
import threading
import time
from collections.abc import Callable
from typing import Any


class Stopwatch:
    """Counts seconds from its creation on, added to `initial_seconds`. From `start` to `close` it handles SIGCONT.

    A process gets no signal when it is stopped, only SIGCONT when it continues. The time between the last call of
    `seconds` and SIGCONT is not counted, which includes the part of a step before the stop. In other threads than the
    main thread, and on systems without SIGCONT, all time is counted.
    """

    def __init__(self, initial_seconds: float = 0.0, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._start, self._last = now() - initial_seconds, now()
        self._handler: Any = None  # the handler of SIGCONT before `start`

    def start(self) -> None:
        """Installs the handler of SIGCONT."""
        if hasattr(signal, "SIGCONT") and threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGCONT, lambda number, frame: self._continue())

    def close(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGCONT, self._handler)
            self._handler = None

    def seconds(self) -> float:
        self._last = self._now()
        return self._last - self._start

    def _continue(self) -> None:
        now = self._now()
        self._start += now - self._last
        self._last = now
