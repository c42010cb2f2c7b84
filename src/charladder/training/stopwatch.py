"""Seconds of training, without the time for which the process was stopped (Ctrl-Z, SIGSTOP)."""

import signal
import threading
import time
from collections.abc import Callable
from typing import Any


class Stopwatch:
    """Counts seconds on top of `spent`, from the call of `start` to that of `close`.

    A process cannot notice that it is stopped, only that it continues: by SIGCONT. The time between the last call of
    `seconds` and the signal is not counted, so the part of a step before the stop is not counted either. In other
    threads than the main one, and where the system has no SIGCONT, all time counts.
    """

    def __init__(self, initial_seconds: float = 0.0, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._began, self._last = now() - initial_seconds, now()
        self._handler: Any = None  # that of SIGCONT before `start`

    def start(self) -> None:
        """Listens for SIGCONT."""
        if hasattr(signal, "SIGCONT") and threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGCONT, lambda number, frame: self._continue())

    def close(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGCONT, self._handler)
            self._handler = None

    def seconds(self) -> float:
        self._last = self._now()
        return self._last - self._began

    def _continue(self) -> None:
        now = self._now()
        self._began += now - self._last
        self._last = now
