"""The identity of a run: a random id that config.toml, checkpoints and files of weights carry."""

import uuid
from pathlib import Path
from typing import Any

from charladder.errors import UserError

RUN = "run"  # the entry of a file's metadata, and of a checkpoint's state


def new_identity() -> str:
    """A random id, from the operating system: it leaves the random numbers of a training as they are."""
    return uuid.uuid4().hex


def entries(identity: str | None) -> dict[str, str]:
    """What the metadata of a file of the run `identity` has; nothing for a run without one."""
    return {} if identity is None else {RUN: identity}


def check_identity(path: Path, found: Any, folder: Path, identity: str | None) -> None:
    """Raises UserError where the file at `path` was written by another run than that in `folder`, whose id is
    `identity`. Files and runs without an id are not checked: older versions and other programs write none."""
    if found is None or identity is None or found == identity:
        return
    raise UserError(
        f"{path} was written by the run {str(found)[:8]}, and {folder} is the run {identity[:8]}; put the file of this "
        f"run back, or, if it was replaced on purpose, remove the [identity] table from {folder / 'config.toml'}"
    )
