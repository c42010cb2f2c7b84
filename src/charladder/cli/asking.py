"""Whoever asks a run to end: by Ctrl-C, by a request, by closing the terminal."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def asking(asked: list[int]) -> Iterator[None]:
    """Ctrl-C, a request to end (SIGTERM) and a terminal that closes (SIGHUP, unless somebody wants that ignored, as
    nohup does) are noted in `asked`: the step is finished and saved. A second one does not wait for that."""

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        signal.signal(number, signal.default_int_handler)

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {one: signal.getsignal(one) for one in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
