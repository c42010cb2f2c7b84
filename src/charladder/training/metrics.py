"""metrics.jsonl: one JSON line a logged step, and one an evaluation (those have `split`)."""

import json
from pathlib import Path
from typing import Any

from charladder.training.files import write_text


class Metrics:
    """Appends to `path`. After a resume at `step`, lines beyond it are dropped: they will be written again."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        if path.exists():
            kept = [line for line in read_metrics(path) if line["step"] <= step]
            write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self.file = path.open("a", encoding="utf-8", newline="\n")

    def write(self, line: dict[str, Any]) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a last line that was cut short by a crash is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
