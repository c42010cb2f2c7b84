"""Requests to end a run: Ctrl-C, SIGTERM, and a terminal that is closed."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def _handle_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Has `handler` called for SIGINT, SIGTERM and SIGHUP, except for those that the parent process had ignored."""
    before = {one: signal.getsignal(one) for one in _SIGNALS}
    for number, old in before.items():
        if old is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def interrupt_on_signal() -> contextlib.AbstractContextManager[None]:
    """Requests to end raise KeyboardInterrupt at once: for work that has nothing to save."""
    return _handle_signals(signal.default_int_handler)


def stop_on_signal(received: list[int]) -> contextlib.AbstractContextManager[None]:
    """Requests to end are noted in `asked`: the step is finished and saved. A second one raises KeyboardInterrupt."""

    def ask(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, signal.default_int_handler)

    return _handle_signals(ask)
