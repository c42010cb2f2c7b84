"""A log filter that drops errors of cancelled requests, and messages that were logged in the last minute."""

import asyncio
import logging
import time
import traceback

_REPEAT_SECONDS = 60.0
_MAX_KEYS = 1000


def add_log_filters() -> None:
    """Filters the loggers of uvicorn and asyncio."""
    for name in ("uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        if not any(isinstance(existing, RepeatFilter) for existing in logger.filters):
            logger.addFilter(RepeatFilter())


class RepeatFilter(logging.Filter):
    """Drops a record if one with the same message, or with an error from the same line, passed within a minute. A
    client could otherwise fill the disk."""

    def __init__(self) -> None:
        super().__init__()
        self.logged_at: dict[tuple[object, ...], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, asyncio.CancelledError):  # shutting down cancels requests
            return False
        frames = traceback.extract_tb(error.__traceback__)[-1:] if error is not None else []
        key = record.msg if error is None else type(error), *((frame.filename, frame.lineno) for frame in frames)
        now = time.monotonic()
        if now - self.logged_at.get(key, -_REPEAT_SECONDS) < _REPEAT_SECONDS:
            return False
        if len(self.logged_at) > _MAX_KEYS:
            self.logged_at.clear()
        self.logged_at[key] = now
        return True
