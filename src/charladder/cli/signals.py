"""Signals that interrupt a command: SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal was closed)."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

INTERRUPTED_EXIT_CODE = 130  # 128 + SIGINT, as in a shell
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def _handle_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Calls `handler` for these signals, except for those that the parent process has set to be ignored."""
    old_handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, old_handler in old_handlers.items():
        if old_handler is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old_handler in old_handlers.items():
            signal.signal(number, old_handler)


def interrupt_on_signal() -> contextlib.AbstractContextManager[None]:
    """A signal raises KeyboardInterrupt at once: for work that has nothing to save."""
    return _handle_signals(signal.default_int_handler)


def stop_on_signal(received_signals: list[int]) -> contextlib.AbstractContextManager[None]:
    """Appends the first signal to `received_signals`, for a caller that saves and ends; a second one raises
    KeyboardInterrupt."""

    def handle(number: int, frame: FrameType | None) -> None:
        received_signals.append(number)
        signal.signal(number, signal.default_int_handler)

    return _handle_signals(handle)
