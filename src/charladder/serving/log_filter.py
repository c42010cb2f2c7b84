"""What the service logs: nothing about clients that were cut off, and no sentence more than once a minute."""

import asyncio
import logging
import time
import traceback

MINUTE = 60.0


def quieten() -> None:
    """Filters the loggers of the web server and of the event loop."""
    for name in ("uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        if not any(isinstance(one, Sparing) for one in logger.filters):
            logger.addFilter(Sparing())


class Sparing(logging.Filter):
    """Lets a record pass if none like it has passed within a minute: the same message, or the same place of an error.
    One client could otherwise fill a disk."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: dict[tuple[object, ...], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, asyncio.CancelledError):  # the end of the service cut off a client
            return False
        place = traceback.extract_tb(error.__traceback__)[-1:] if error is not None else []
        key = record.msg if error is None else type(error), *((one.filename, one.lineno) for one in place)
        now = time.monotonic()
        if now - self.passed.get(key, -MINUTE) < MINUTE:
            return False
        if len(self.passed) > 1000:
            self.passed.clear()
        self.passed[key] = now
        return True
