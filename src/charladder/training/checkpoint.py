"""Checkpoints: everything to go on, of one step, as safetensors and JSON.

Each is a folder `<step>`, written beside, checksummed and renamed, so that it is whole or not there.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

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
    """Writes `folder/<step>` and removes all but the newest two. Saving a step again changes nothing."""
    step = checkpoint.state["clock"]["step"]
    target, part = folder / str(step), folder / f".{step}.part"
    if target.exists():
        return target
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    marks = {}
    for name in PARTS:
        save_tensors(part / f"{name}.safetensors", getattr(checkpoint, name))
        marks[f"{name}.safetensors"] = file_digest(part / f"{name}.safetensors")
    write_text(part / "state.json", json.dumps({"format_version": FORMAT, **checkpoint.state, "sha256": marks}))
    part.rename(target)
    for old in list_checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first, whole or not."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None where there is none."""
    for path in reversed(list_checkpoints(folder)):
        try:
            state = json.loads((path / "state.json").read_text())
            if state["format_version"] != FORMAT:
                continue
            if any(
                file_digest(path / f"{name}.safetensors") != state["sha256"][f"{name}.safetensors"] for name in PARTS
            ):
                continue
            parts = {name: load_file(path / f"{name}.safetensors") for name in PARTS}
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            continue
        return Checkpoint(**parts, state=state)
    return None


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes a safetensors file beside `path`, flushes it to the disk and renames it."""
    beside = path.with_name(f".{path.name}.part")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, beside)
    with beside.open("rb+") as file:
        os.fsync(file.fileno())
    beside.replace(path)


def write_text(path: Path, text: str) -> None:
    """Writes a small text file beside `path`, flushes it to the disk and renames it."""
    beside = path.with_name(f".{path.name}.part")
    with beside.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_tensors(module: torch.nn.Module, tensors: dict[str, Tensor]) -> None:
    module.load_state_dict(tensors, strict=True)
