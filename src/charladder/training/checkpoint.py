"""Checkpoints: everything to go on, of one step, as safetensors and JSON.

Each is a folder `<step>`, written beside, checksummed and renamed, so that it is whole or not there.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from charladder.errors import BadInput
from charladder.training.files import file_digest, save_tensors, write_text

FORMAT = 1
KEPT = 2
PARTS = ("network", "heads", "optimizer")


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors of the three parts, and the state that is no tensor: clock, sampler, seed."""

    network: dict[str, Tensor]
    heads: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes `folder/<step>`, and keeps besides it the one before. Saving a step again changes nothing.

    Whatever is there of later steps was not whole when this run began, or it would have gone on from there: removed.
    """
    step = checkpoint.state["clock"]["step"]
    target, part = folder / str(step), folder / f".{step}.part"
    if load(target) is None:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            marks = {}
            for name in PARTS:
                save_tensors(part / f"{name}.safetensors", getattr(checkpoint, name))
                marks[f"{name}.safetensors"] = file_digest(part / f"{name}.safetensors")
            state = {"format_version": FORMAT, **checkpoint.state, "sha256": marks}
            write_text(part / "state.json", json.dumps(state))
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
    there = list_checkpoints(folder)
    upto = [path for path in there if int(path.name) <= step]
    for old in {*there} - {*upto[-KEPT:]}:
        shutil.rmtree(old)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first, whole or not."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None where there are none at all.

    Raises BadInput where there are some and none is whole: to begin again would lose the run.
    """
    paths = list_checkpoints(folder)
    for path in reversed(paths):
        checkpoint = load(path)
        if checkpoint is not None:
            return checkpoint
    if paths:
        raise BadInput(f"no checkpoint in {folder} is whole; put a good copy back, or start a new run")
    return None


def load(path: Path) -> Checkpoint | None:
    """The checkpoint at `path`, if it is there, of this format, and every file has its checksum."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        files = {name: path / f"{name}.safetensors" for name in PARTS}
        whole = all(file_digest(file) == state["sha256"][file.name] for file in files.values())
        if state["format_version"] != FORMAT or not whole or not sound(state):
            return None
        return Checkpoint(**{name: load_file(file) for name, file in files.items()}, state=state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError):
        return None


def sound(state: dict[str, Any]) -> bool:
    """Whether the clock and the sampler of a checkpoint are numbers that a run can have."""
    clock, examples = state["clock"], state["sampler"]["examples"]
    counts = (clock["step"], clock["characters"], examples)
    whole = all(type(count) is int and count >= 0 for count in counts)
    return whole and clock.keys() == {"step", "characters", "seconds"} and type(clock["seconds"]) in (int, float)
