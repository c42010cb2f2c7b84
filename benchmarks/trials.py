"""The trials of a sweep on disk: a plan that may not change, and one JSON line for each finished trial."""

import itertools
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charladder.atomic_io import write_text
from charladder.errors import UserError
from charladder.strict_json import dumps


@dataclass(frozen=True)
class HalvingRound:
    """A round of successive halving: how many settings are trained, for which share of the budget."""

    settings: int
    share: float


def parse_rounds(texts: Sequence[str], most: int) -> list[HalvingRound]:
    """Rounds from `SETTINGS:SHARE`. Raises UserError unless settings fall and shares rise, to 1. most: settings of the
    first round."""
    rounds = []
    for text in texts:
        count, _, share = text.partition(":")
        try:
            halving = HalvingRound(int(count), float(share))
        except ValueError:
            halving = HalvingRound(0, math.nan)
        if halving.settings < 1 or not 0 < halving.share <= 1:
            raise UserError(
                f"--rounds has {text!r}; it must be a number of settings and a part of the seconds, such as 8:0.5"
            )
        rounds.append(halving)
    if rounds[0].settings > most:
        raise UserError(f"--rounds begins with {rounds[0].settings} settings, and the grid has {most}; give fewer")
    for first, second in itertools.pairwise(rounds):
        if second.settings > first.settings or second.share < first.share:
            raise UserError("--rounds must have fewer settings and a larger part of the seconds from round to round")
    if rounds[-1].share != 1:
        raise UserError(f"--rounds ends with the part {rounds[-1].share:g}; the last round must have all seconds, 1")
    return rounds


def check_plan(path: Path, plan: dict[str, Any]) -> None:
    """Writes the plan if there is none yet. Raises UserError if the file has another plan."""
    wanted = json.loads(dumps(plan))
    if not path.exists():
        write_text(path, dumps(plan) + "\n")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        different = [name for name in wanted if found.get(name) != wanted[name]]
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} cannot be read: {error}; give another --out") from None
    if different:
        name = different[0]
        raise UserError(
            f"{path.parent} holds a sweep with another plan: {name} was {found.get(name)}, and is {wanted[name]}; give "
            "another --out"
        )


class Trials:
    """The lines of a file. The end of a line that a killed process did not finish is removed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        data = path.read_bytes() if path.exists() else b""
        complete = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(complete.splitlines(), 1):
            try:
                self.lines.append(self._check(json.loads(line)))
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"line {number} of {path} is not a trial; remove it, and the trial is repeated"
                ) from None
        if len(complete) < len(data):
            os.truncate(path, len(complete))

    @staticmethod
    def _check(line: dict[str, Any]) -> dict[str, Any]:
        bits = line["valid_bits"]
        if not (line["round"] >= 0 and line["settings"].keys() and line["steps"] >= 0 and line["seed"] >= 0):
            raise ValueError
        if bits is None:
            line["failed"]
        elif not math.isfinite(bits):
            raise ValueError
        return line

    def find(self, number: int, settings: dict[str, Any]) -> dict[str, Any] | None:
        """The finished trial with these settings in a round."""
        return next((one for one in self.lines if (one["round"], one["settings"]) == (number, settings)), None)

    def append(self, line: dict[str, Any]) -> dict[str, Any]:
        """Appends a trial and flushes it to the disk; returns the line."""
        with self.path.open("ab") as file:
            file.write(dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(line)
        return line
