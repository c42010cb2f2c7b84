"""Reads metrics.jsonl while another process writes it."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

_MAX_BYTES = 1 << 22  # read at once


class MetricsFollower:
    """Returns the lines of a file that were completed since the last call. A file that was replaced, as the training
    process does when it removes lines, is read from its beginning."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file_id: tuple[int, int] | None = None
        self._offset = 0

    def read(self) -> list[dict[str, Any]]:
        """The next complete lines, of some megabytes at most; an empty list if there are none yet. Lines that are not
        JSON objects with a step are left out."""
        while True:
            try:
                with self.path.open("rb") as file:
                    content = self._read_next(file)
            except FileNotFoundError:
                return []
            if not content:
                return []
            lines = []
            for text in content.splitlines():
                with suppress(ValueError, RecursionError):
                    line = json.loads(text)
                    if isinstance(line, dict) and type(line.get("step")) is int:
                        lines.append(line)
            if lines:
                return lines

    def _read_next(self, file: IO[bytes]) -> bytes:
        """The complete lines after the last offset."""
        status = os.fstat(file.fileno())
        file_id = status.st_dev, status.st_ino
        if file_id != self._file_id or status.st_size < self._offset:
            self._file_id, self._offset = file_id, 0
        file.seek(self._offset)
        content = file.read(_MAX_BYTES)
        end = content.rfind(b"\n") + 1
        self._offset += end or (_MAX_BYTES if len(content) == _MAX_BYTES else 0)  # too long a line is damaged
        return content[:end]
