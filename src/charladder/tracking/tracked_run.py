"""What a tracker is told about a run: its name, its recipe, and the study that it belongs to."""

import hashlib
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GROUP_VARIABLE, ARM_VARIABLE = "CHARLADDER_TRACK_GROUP", "CHARLADDER_TRACK_ARM"
_LEFT_OUT = "text.letters", "identity.run", "identity.sha256"  # the letters can be long


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker sees it.

    identity: an id that stays when the run is resumed. config: the fields of the recipe by dotted name. group, arm: the
    plan and the arm of a study; None for a run of no study.
    """

    path: Path
    identity: str
    config: dict[str, Any]
    group: str | None = None
    arm: str | None = None

    @property
    def name(self) -> str:
        """The name of the run directory."""
        return self.path.resolve().name

    @property
    def labels(self) -> dict[str, str]:
        """The plan and the arm by name, without those that the run does not have."""
        return {name: text for name, text in (("plan", self.group), ("arm", self.arm)) if text is not None}


def read_tracked_run(path: Path) -> TrackedRun:
    """The run in a run directory; its study is in the environment variables GROUP_VARIABLE and ARM_VARIABLE."""
    tables = tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))
    config = _flatten(tables)
    identity = str(config.get("identity.run") or hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32])
    for name in _LEFT_OUT:
        config.pop(name, None)
    return TrackedRun(path, identity, config, os.environ.get(GROUP_VARIABLE), os.environ.get(ARM_VARIABLE))


def _flatten(tables: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested tables by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in tables.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
