"""Checkpoints: the complete training state after one step, as safetensors and JSON.

A checkpoint is a folder `<step>`, written under a temporary name, checksummed and renamed, so that it is complete or
absent. With sharded tensors (FSDP2) each rank writes its shards; any number of ranks can read them.
"""

import json
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from charladder.atomic_io import fsync_folder, write_text
from charladder.auxiliary.distributed import is_sharded
from charladder.errors import UserError
from charladder.training import sharded_io
from charladder.training.distributed import barrier, is_rank_zero, on_rank_zero
from charladder.training.identity import RUN_KEY, check_identity
from charladder.training.tensor_files import check_length, file_digest, save_tensors

_FORMAT_VERSION = 2
PARTS = ("network", "heads", "optimizer")
_FILE_NAME = re.compile(r"[\w-]+\.safetensors")  # of files in a checkpoint: none can lead out of it
_STEP_NAME = re.compile(r"0|[1-9][0-9]{0,17}")
_DIGEST_ENTRY = re.compile(r'\{"seal": "([0-9a-f]{64})", ')
_MAX_STATE_BYTES = 1 << 24  # bytes of state.json: what is longer is none of ours


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors of the three parts, and the state that is no tensor: clock, sampler, seed, health."""

    network: dict[str, Tensor]
    heads: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes `folder/<step>`, and keeps besides it the one before. Saving a step again changes nothing.

    Whatever is there of later steps was not whole when this run began, or it would have gone on from there: removed.
    Under several ranks all of them call this, and return when it is done.
    """
    step = checkpoint.state["clock"]["step"]
    target = folder / str(step)
    if any(is_sharded(tensor) for tensor in checkpoint.network.values()):
        _save_sharded(folder, checkpoint)
    elif is_rank_zero():
        if not _is_intact(target):
            with _temporary_folder(folder, step) as part:
                for name in PARTS:
                    save_tensors(part / f"{name}.safetensors", getattr(checkpoint, name))
                _finish(part, checkpoint.state, target)
        _remove_old(folder, step)
    barrier()
    return target


@contextmanager
def _temporary_folder(folder: Path, step: int) -> Iterator[Path]:
    """The folder in which the checkpoint of a step is made; gone if anything fails."""
    part = folder / f".{step}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _save_sharded(folder: Path, checkpoint: Checkpoint) -> None:
    """Each rank writes its pieces, rank 0 the rest."""
    step = checkpoint.state["clock"]["step"]
    part, target = folder / f".{step}.part", folder / str(step)

    def begin() -> bool:
        if _is_intact(target):
            return False
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        return True

    def end() -> None:
        _finish(part, checkpoint.state, target)

    if on_rank_zero(begin):
        try:
            sharded_io.save(part, {**checkpoint.network, **checkpoint.heads, **checkpoint.optimizer})
            on_rank_zero(end)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    if is_rank_zero():
        _remove_old(folder, step)


def _finish(part: Path, state: dict[str, Any], target: Path) -> None:
    """Adds the state, with the checksum of every file, and puts the folder in its place."""
    marks = {file.name: file_digest(file) for file in sorted(part.glob("*.safetensors"))}
    write_text(part / "state.json", add_digest({"format_version": _FORMAT_VERSION, **state, "sha256": marks}))
    shutil.rmtree(target, ignore_errors=True)  # not whole, or it would not be written again
    part.rename(target)
    fsync_folder(target.parent)


def _remove_old(folder: Path, step: int) -> None:
    """Removes all but the checkpoint of `step`, which is whole, and the newest whole one before."""
    there = list_checkpoints(folder)
    earlier = (path for path in reversed(there) if int(path.name) < step)
    kept = {folder / str(step), next((path for path in earlier if _is_intact(path)), None)}
    for old in {*there} - kept:
        _discard(old)


def _is_intact(path: Path) -> bool:
    try:
        _read_verified_state(path)
    except DamagedCheckpoint:
        return False
    return True


def _discard(path: Path) -> None:
    """Removes a checkpoint, which is first renamed: one that is half removed is none."""
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    path.rename(part)
    shutil.rmtree(part, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first, whole or not."""
    if not folder.is_dir():
        return []
    named = (p for p in folder.iterdir() if _STEP_NAME.fullmatch(p.name))
    return sorted((p for p in named if p.is_dir() and not p.is_symlink()), key=lambda p: int(p.name))


def load_newest(
    folder: Path, report: Callable[[str], None] = lambda sentence: None, identity: str | None = None
) -> Checkpoint | None:
    """The newest checkpoint that is whole; None where there are none at all. `report` hears why others are left out.

    Raises UserError where there are some and none is whole: to begin again would lose the run. Also where one was
    written by another run than `identity`: to go on would remove it.
    """
    paths = list_checkpoints(folder)
    for path in paths:
        check_identity(path, _read_identity(path), folder.parent, identity)
    for path in reversed(paths):
        try:
            return load_checkpoint(path)
        except DamagedCheckpoint as error:
            report(str(error))
    if paths:
        raise UserError(f"no checkpoint in {folder} is whole; put a good copy back, or start a new run")
    return None


def _read_identity(path: Path) -> Any:
    """The identity of the run that wrote the checkpoint at `path`; None where it is not known."""
    file = path / "state.json"
    try:
        if not stat.S_ISREG(file.lstat().st_mode) or file.stat().st_size > _MAX_STATE_BYTES:
            return None
        return _parse_verified(file.read_text(encoding="utf-8")).get(RUN_KEY)
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


class DamagedCheckpoint(Exception):
    """A checkpoint that is not what a run wrote; the message names the file."""


def load_or_none(path: Path) -> Checkpoint | None:
    """The checkpoint at `path`, if it is there and whole."""
    try:
        return load_checkpoint(path)
    except DamagedCheckpoint:
        return None


def _read_verified_state(path: Path) -> dict[str, Any]:
    """The state of the checkpoint at `path`. Raises DamagedCheckpoint where a file is missing, has
    another checksum, or was not written by a run."""
    file = path / "state.json"
    try:
        there = {found.name: found.lstat() for found in path.iterdir()}
        for name, status in there.items():
            file = path / name
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is no plain file")
        file = path / "state.json"
        if file.stat().st_size > _MAX_STATE_BYTES:
            raise ValueError("it is too long")
        state = _parse_verified(file.read_text(encoding="utf-8"))
        if state["format_version"] != _FORMAT_VERSION:
            raise ValueError("it has another format_version")
        if not is_valid_state(state):
            raise ValueError("its clock or sampler is none that a run has")
        marks = state["sha256"]
        if not marks or not all(_FILE_NAME.fullmatch(name) and isinstance(mark, str) for name, mark in marks.items()):
            raise ValueError("it names files that no run writes")
        for name, mark in marks.items():
            file = path / name
            check_length(file)
            if file_digest(file) != mark:
                raise ValueError("its checksum is not that of state.json")
        strange = {*there} - {*marks, "state.json"}
        if strange:
            file = path
            raise ValueError(f"{min(strange)} does not belong there")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedCheckpoint(
            f"{file} is damaged, and its checkpoint is not used: {_describe_error(error)}"
        ) from None
    return state


def load_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at `path`. Raises DamagedCheckpoint where it is not whole."""
    state, file = _read_verified_state(path), path
    try:
        if {*state["sha256"]} == {f"{name}.safetensors" for name in PARTS}:
            parts = {}
            for name in PARTS:
                file = path / f"{name}.safetensors"
                parts[name] = load_file(file)
            return Checkpoint(**parts, state=state)
        return _group_tensors(sharded_io.load(path), state)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DamagedCheckpoint(
            f"{file} is damaged, and its checkpoint is not used: {_describe_error(error)}"
        ) from None


def add_digest(state: dict[str, Any]) -> str:
    """A JSON object whose first entry is the SHA-256 of all that follows it."""
    rest = json.dumps(state)[1:]
    return f'{{"seal": "{sha256(rest.encode()).hexdigest()}", {rest}'


def _parse_verified(text: str) -> dict[str, Any]:
    """What was sealed. Raises ValueError where a single byte of it is another."""
    found = _DIGEST_ENTRY.match(text)
    if found is None or sha256(text[found.end() :].encode()).hexdigest() != found[1]:
        raise ValueError("its checksum is not that of its first entry")
    return json.loads(text)


def _describe_error(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{error} is missing" if isinstance(error, KeyError) else str(error).split("\n")[0]


def _group_tensors(tensors: dict[str, Tensor], state: dict[str, Any]) -> Checkpoint:
    """Tensors that lay together, by part: states of an optimizer have a stroke in their names, heads their module's."""
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in PARTS}
    for name, tensor in tensors.items():
        part = "optimizer" if "/" in name else "heads" if name.startswith("heads.") else "network"
        parts[part][name] = tensor
    return Checkpoint(**parts, state=state)


def is_valid_state(state: dict[str, Any]) -> bool:
    """Whether the clock and the sampler of a checkpoint are numbers that a run can have."""
    clock, examples = state["clock"], state["sampler"]["examples"]
    counts = (clock["step"], clock["characters"], examples)
    whole = all(type(count) is int and 0 <= count < 1 << 53 for count in counts)
    seconds = clock["seconds"]
    timed = type(seconds) in (int, float) and 0 <= seconds < 1e12
    return whole and timed and clock.keys() == {"step", "characters", "seconds"}
