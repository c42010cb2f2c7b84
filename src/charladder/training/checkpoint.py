"""Checkpoints: everything to go on, of one step, as safetensors and JSON.

Each is a folder `<step>`, written beside, checksummed and renamed, so that it is whole or not there. Where the ranks
have pieces of the tensors (FSDP2), each writes its own; such a checkpoint is read at any number of ranks.
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
from charladder.training.identity import RUN, check_identity
from charladder.training.tensor_files import check_length, file_digest, save_tensors

FORMAT = 2
KEPT = 2
PARTS = ("network", "heads", "optimizer")
NAMES = re.compile(r"[\w-]+\.safetensors")  # of files in a checkpoint: none can lead out of it
STEP = re.compile(r"0|[1-9][0-9]{0,17}")
DIGEST_KEY = re.compile(r'\{"seal": "([0-9a-f]{64})", ')
MOST_STATE = 1 << 24  # bytes of state.json: what is longer is none of ours


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
        save_sharded(folder, checkpoint)
    elif is_rank_zero():
        if not is_complete(target):
            with part_of(folder, step) as part:
                for name in PARTS:
                    save_tensors(part / f"{name}.safetensors", getattr(checkpoint, name))
                complete(part, checkpoint.state, target)
        prune(folder, step)
    barrier()
    return target


@contextmanager
def part_of(folder: Path, step: int) -> Iterator[Path]:
    """The folder in which the checkpoint of a step is made; gone if anything fails."""
    part = folder / f".{step}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def save_sharded(folder: Path, checkpoint: Checkpoint) -> None:
    """Each rank writes its pieces, rank 0 the rest."""
    step = checkpoint.state["clock"]["step"]
    part, target = folder / f".{step}.part", folder / str(step)

    def begin() -> bool:
        if is_complete(target):
            return False
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        return True

    def end() -> None:
        complete(part, checkpoint.state, target)

    if on_rank_zero(begin):
        try:
            sharded_io.save(part, {**checkpoint.network, **checkpoint.heads, **checkpoint.optimizer})
            on_rank_zero(end)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    if is_rank_zero():
        prune(folder, step)


def complete(part: Path, state: dict[str, Any], target: Path) -> None:
    """Adds the state, with the checksum of every file, and puts the folder in its place."""
    marks = {file.name: file_digest(file) for file in sorted(part.glob("*.safetensors"))}
    write_text(part / "state.json", add_digest({"format_version": FORMAT, **state, "sha256": marks}))
    shutil.rmtree(target, ignore_errors=True)  # not whole, or it would not be written again
    part.rename(target)
    fsync_folder(target.parent)


def prune(folder: Path, step: int) -> None:
    """Removes all but the checkpoint of `step`, which is whole, and the newest whole one before."""
    there = list_checkpoints(folder)
    earlier = (path for path in reversed(there) if int(path.name) < step)
    kept = {folder / str(step), next((path for path in earlier if is_complete(path)), None)}
    for old in {*there} - kept:
        discard(old)


def is_complete(path: Path) -> bool:
    try:
        check(path)
    except Broken:
        return False
    return True


def discard(path: Path) -> None:
    """Removes a checkpoint, which is first renamed: one that is half removed is none."""
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    path.rename(part)
    shutil.rmtree(part, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first, whole or not."""
    if not folder.is_dir():
        return []
    named = (p for p in folder.iterdir() if STEP.fullmatch(p.name))
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
        check_identity(path, writer(path), folder.parent, identity)
    for path in reversed(paths):
        try:
            return read(path)
        except Broken as error:
            report(str(error))
    if paths:
        raise UserError(f"no checkpoint in {folder} is whole; put a good copy back, or start a new run")
    return None


def writer(path: Path) -> Any:
    """The identity of the run that wrote the checkpoint at `path`; None where it is not known."""
    file = path / "state.json"
    try:
        if not stat.S_ISREG(file.lstat().st_mode) or file.stat().st_size > MOST_STATE:
            return None
        return check_digest(file.read_text(encoding="utf-8")).get(RUN)
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


class Broken(Exception):
    """A checkpoint that is not what a run wrote; the message names the file."""


def load(path: Path) -> Checkpoint | None:
    """The checkpoint at `path`, if it is there and whole."""
    try:
        return read(path)
    except Broken:
        return None


def check(path: Path) -> dict[str, Any]:
    """The state of the checkpoint at `path`. Raises Broken where a file is missing, has another checksum, or is not
    ours."""
    file = path / "state.json"
    try:
        there = {found.name: found.lstat() for found in path.iterdir()}
        for name, status in there.items():
            file = path / name
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is no plain file")
        file = path / "state.json"
        if file.stat().st_size > MOST_STATE:
            raise ValueError("it is too long")
        state = check_digest(file.read_text(encoding="utf-8"))
        if state["format_version"] != FORMAT:
            raise ValueError("it has another format_version")
        if not check_state(state):
            raise ValueError("its clock or sampler is none that a run has")
        marks = state["sha256"]
        if not marks or not all(NAMES.fullmatch(name) and isinstance(mark, str) for name, mark in marks.items()):
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
        raise Broken(f"{file} is damaged, and its checkpoint is not used: {describe(error)}") from None
    return state


def read(path: Path) -> Checkpoint:
    """The checkpoint at `path`. Raises Broken where it is not whole."""
    state, file = check(path), path
    try:
        if {*state["sha256"]} == {f"{name}.safetensors" for name in PARTS}:
            parts = {}
            for name in PARTS:
                file = path / f"{name}.safetensors"
                parts[name] = load_file(file)
            return Checkpoint(**parts, state=state)
        return sorted_out(sharded_io.load(path), state)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise Broken(f"{file} is damaged, and its checkpoint is not used: {describe(error)}") from None


def add_digest(state: dict[str, Any]) -> str:
    """A JSON object whose first entry is the SHA-256 of all that follows it."""
    rest = json.dumps(state)[1:]
    return f'{{"seal": "{sha256(rest.encode()).hexdigest()}", {rest}'


def check_digest(text: str) -> dict[str, Any]:
    """What was sealed. Raises ValueError where a single byte of it is another."""
    found = DIGEST_KEY.match(text)
    if found is None or sha256(text[found.end() :].encode()).hexdigest() != found[1]:
        raise ValueError("its checksum is not that of its first entry")
    return json.loads(text)


def describe(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{error} is missing" if isinstance(error, KeyError) else str(error).split("\n")[0]


def sorted_out(tensors: dict[str, Tensor], state: dict[str, Any]) -> Checkpoint:
    """Tensors that lay together, by part: states of an optimizer have a stroke in their names, heads their module's."""
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in PARTS}
    for name, tensor in tensors.items():
        part = "optimizer" if "/" in name else "heads" if name.startswith("heads.") else "network"
        parts[part][name] = tensor
    return Checkpoint(**parts, state=state)


def check_state(state: dict[str, Any]) -> bool:
    """Whether the clock and the sampler of a checkpoint are numbers that a run can have."""
    clock, examples = state["clock"], state["sampler"]["examples"]
    counts = (clock["step"], clock["characters"], examples)
    whole = all(type(count) is int and 0 <= count < 1 << 53 for count in counts)
    seconds = clock["seconds"]
    timed = type(seconds) in (int, float) and 0 <= seconds < 1e12
    return whole and timed and clock.keys() == {"step", "characters", "seconds"}
