"""What the service logs: nothing about clients that were cut off, and no sentence more than once a minute."""

import asyncio
import logging
import time
import traceback

_REPEAT_SECONDS = 60.0


def add_log_filters() -> None:
    """Filters the loggers of the web server and of the event loop."""
    for name in ("uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        if not any(isinstance(one, RepeatFilter) for one in logger.filters):
            logger.addFilter(RepeatFilter())


class RepeatFilter(logging.Filter):
    """Lets a record pass if none like it has passed within a minute: the same message, or the same place of an error.
    One client could otherwise fill a disk."""

    def __init__(self) -> None:
        super().__init__()
        self.logged_at: dict[tuple[object, ...], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, asyncio.CancelledError):  # the end of the service cut off a client
            return False
        place = traceback.extract_tb(error.__traceback__)[-1:] if error is not None else []
        key = record.msg if error is None else type(error), *((one.filename, one.lineno) for one in place)
        now = time.monotonic()
        if now - self.logged_at.get(key, -_REPEAT_SECONDS) < _REPEAT_SECONDS:
            return False
        if len(self.logged_at) > 1000:
            self.logged_at.clear()
        self.logged_at[key] = now
        return True
