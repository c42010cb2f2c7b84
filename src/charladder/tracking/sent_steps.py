"""tracking.json in the run directory: the last step that each tracker has received.

With it, a resumed run sends no step twice, and sends what an interrupted tracker missed.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from charladder.atomic_io import write_text
from charladder.strict_json import dumps
from charladder.tracking.metric_values import line_kind


class SentSteps:
    """The last step of each kind of line that a tracker has received."""

    def __init__(self, folder: Path, tracker: str) -> None:
        self.path, self.tracker = folder / "tracking.json", tracker
        last = self._read_all().get(tracker)
        self.last: dict[str, int] = (
            {kind: step for kind, step in last.items() if type(step) is int} if isinstance(last, dict) else {}
        )

    def is_new(self, line: dict[str, Any]) -> bool:
        """Whether a line is tracked, and of a later step than the last one of its kind."""
        kind = line_kind(line)
        return kind is not None and line["step"] > self.last.get(kind, -1)

    def add(self, line: dict[str, Any]) -> None:
        self.last[line_kind(line) or ""] = line["step"]

    def save(self) -> None:
        """Writes the file; other trackers' steps stay."""
        write_text(self.path, dumps({**self._read_all(), self.tracker: self.last}) + "\n")

    def _read_all(self) -> dict[str, Any]:
        """The content of the file; empty if there is none, or it is damaged."""
        with suppress(OSError, ValueError, RecursionError):
            content = json.loads(self.path.read_bytes())
            if isinstance(content, dict):
                return content
        return {}
