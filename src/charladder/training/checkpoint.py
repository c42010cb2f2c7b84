"""Checkpoints: the complete training state after one step, as safetensors and JSON.

A checkpoint is a folder `<step>`. It is written under a temporary name, checksummed and renamed, so a crash never
leaves a partial one. With sharded tensors (FSDP2) each rank writes its shards; any number of ranks can read them.
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
_FILE_NAME = re.compile(r"[\w-]+\.safetensors")  # a name without a path: no file outside the checkpoint
_STEP_NAME = re.compile(r"0|[1-9][0-9]{0,17}")
_DIGEST_ENTRY = re.compile(r'\{"seal": "([0-9a-f]{64})", ')
_MAX_STATE_BYTES = 1 << 24  # size limit of state.json


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors of the three parts, and the state that is not a tensor: clock, sampler, seed, health."""

    network: dict[str, Tensor]
    heads: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes `folder/<step>` and removes all other checkpoints but the previous intact one. Returns its path.

    An intact checkpoint of the same step is not written again. Checkpoints of later steps are damaged, because the run
    did not resume from them, and are removed. All ranks call this function, and return when the checkpoint is complete.
    """
    step = checkpoint.state["clock"]["step"]
    target = folder / str(step)
    if any(is_sharded(tensor) for tensor in checkpoint.network.values()):
        _save_sharded(folder, checkpoint)
    elif is_rank_zero():
        if not _is_intact(target):
            with _temporary_folder(folder, step) as temporary:
                for name in PARTS:
                    save_tensors(temporary / f"{name}.safetensors", getattr(checkpoint, name))
                _finish(temporary, checkpoint.state, target)
        _remove_old(folder, step)
    barrier()
    return target


@contextmanager
def _temporary_folder(folder: Path, step: int) -> Iterator[Path]:
    """A temporary folder for the checkpoint of a step; it is removed if an exception is raised."""
    temporary = folder / f".{step}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _save_sharded(folder: Path, checkpoint: Checkpoint) -> None:
    """Each rank writes its shards; rank 0 writes state.json."""
    step = checkpoint.state["clock"]["step"]
    temporary, target = folder / f".{step}.part", folder / str(step)

    def make_folder() -> bool:
        if _is_intact(target):
            return False
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        return True

    def finish() -> None:
        _finish(temporary, checkpoint.state, target)

    if on_rank_zero(make_folder):
        try:
            sharded_io.save(temporary, {**checkpoint.network, **checkpoint.heads, **checkpoint.optimizer})
            on_rank_zero(finish)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    if is_rank_zero():
        _remove_old(folder, step)


def _finish(temporary: Path, state: dict[str, Any], target: Path) -> None:
    """Writes state.json with the SHA-256 of every file, and renames the folder to its final name."""
    digests = {file.name: file_digest(file) for file in sorted(temporary.glob("*.safetensors"))}
    write_text(temporary / "state.json", add_digest({"format_version": _FORMAT_VERSION, **state, "sha256": digests}))
    shutil.rmtree(target, ignore_errors=True)  # a damaged checkpoint of the same step
    temporary.rename(target)
    fsync_folder(target.parent)


def _remove_old(folder: Path, step: int) -> None:
    """Removes all checkpoints but that of `step` and the newest intact one before it."""
    checkpoints = list_checkpoints(folder)
    earlier = (path for path in reversed(checkpoints) if int(path.name) < step)
    retained = {folder / str(step), next((path for path in earlier if _is_intact(path)), None)}
    for path in {*checkpoints} - retained:
        _remove_checkpoint(path)


def _is_intact(path: Path) -> bool:
    try:
        _read_verified_state(path)
    except DamagedCheckpoint:
        return False
    return True


def _remove_checkpoint(path: Path) -> None:
    """Renames a checkpoint and removes it, so that a crash leaves no partial checkpoint."""
    temporary = path.with_name(f".{path.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    path.rename(temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first, including damaged ones."""
    if not folder.is_dir():
        return []
    paths = (p for p in folder.iterdir() if _STEP_NAME.fullmatch(p.name))
    return sorted((p for p in paths if p.is_dir() and not p.is_symlink()), key=lambda p: int(p.name))


def load_newest(
    folder: Path, report: Callable[[str], None] = lambda sentence: None, identity: str | None = None
) -> Checkpoint | None:
    """The newest intact checkpoint; None if `folder` has no checkpoint. Calls `report` with a sentence for each damaged
    checkpoint that is skipped.

    Raises UserError if all checkpoints are damaged, because training from the first step would overwrite the run, and
    if a checkpoint was written by another run than `identity`, because a resumed run would remove it.
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
        raise UserError(f"no checkpoint in {folder} is intact; restore a good copy, or start a new run")
    return None


def _read_identity(path: Path) -> Any:
    """The identity of the run that wrote the checkpoint at `path`; None if it is not known."""
    file = path / "state.json"
    try:
        if not stat.S_ISREG(file.lstat().st_mode) or file.stat().st_size > _MAX_STATE_BYTES:
            return None
        return _parse_verified(file.read_text(encoding="utf-8")).get(RUN_KEY)
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


class DamagedCheckpoint(Exception):
    """A file of a checkpoint is missing, changed or invalid; the message names the file."""


def load_or_none(path: Path) -> Checkpoint | None:
    """The checkpoint at `path`; None if it is missing or damaged."""
    try:
        return load_checkpoint(path)
    except DamagedCheckpoint:
        return None


def _read_verified_state(path: Path) -> dict[str, Any]:
    """The state of the checkpoint at `path`, after all its files were verified. Raises DamagedCheckpoint if a file is
    missing or unexpected, or has another checksum."""
    file = path / "state.json"
    try:
        files = {entry.name: entry.lstat() for entry in path.iterdir()}
        for name, status in files.items():
            file = path / name
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is not a regular file")
        file = path / "state.json"
        if file.stat().st_size > _MAX_STATE_BYTES:
            raise ValueError("it is too long")
        state = _parse_verified(file.read_text(encoding="utf-8"))
        if state["format_version"] != _FORMAT_VERSION:
            raise ValueError(f"its format_version is not {_FORMAT_VERSION}")
        if not is_valid_state(state):
            raise ValueError("its clock or sampler is invalid")
        digests = state["sha256"]
        if not digests or not all(_FILE_NAME.fullmatch(name) and isinstance(d, str) for name, d in digests.items()):
            raise ValueError("its table of checksums is invalid")
        for name, digest in digests.items():
            file = path / name
            check_length(file)
            if file_digest(file) != digest:
                raise ValueError("its checksum is not that of state.json")
        unexpected = {*files} - {*digests, "state.json"}
        if unexpected:
            file = path
            raise ValueError(f"{min(unexpected)} does not belong there")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedCheckpoint(
            f"{file} is damaged, and its checkpoint is not used: {_describe_error(error)}"
        ) from None
    return state


def load_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at `path`. Raises DamagedCheckpoint if it is not intact."""
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
    """`state` as a JSON object whose first entry is the SHA-256 of the rest of the text."""
    rest = json.dumps(state)[1:]
    return f'{{"seal": "{sha256(rest.encode()).hexdigest()}", {rest}'


def _parse_verified(text: str) -> dict[str, Any]:
    """The object that `add_digest` wrote. Raises ValueError if the text has another digest than its first entry."""
    match = _DIGEST_ENTRY.match(text)
    if match is None or sha256(text[match.end() :].encode()).hexdigest() != match[1]:
        raise ValueError("its checksum is not that of its first entry")
    return json.loads(text)


def _describe_error(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{error} is missing" if isinstance(error, KeyError) else str(error).split("\n")[0]


def _group_tensors(tensors: dict[str, Tensor], state: dict[str, Any]) -> Checkpoint:
    """A checkpoint from the tensors of all parts. Names with `/` are optimizer state, those with `heads.` are heads."""
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in PARTS}
    for name, tensor in tensors.items():
        part = "optimizer" if "/" in name else "heads" if name.startswith("heads.") else "network"
        parts[part][name] = tensor
    return Checkpoint(**parts, state=state)


def is_valid_state(state: dict[str, Any]) -> bool:
    """Whether the clock and the sampler of a checkpoint have valid numbers."""
    clock, examples = state["clock"], state["sampler"]["examples"]
    counts = (clock["step"], clock["characters"], examples)
    are_counts_valid = all(type(count) is int and 0 <= count < 1 << 53 for count in counts)
    seconds = clock["seconds"]
    is_time_valid = type(seconds) in (int, float) and 0 <= seconds < 1e12
    return are_counts_valid and is_time_valid and clock.keys() == {"step", "characters", "seconds"}
