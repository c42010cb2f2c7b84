"""The identity of a run: a random id that config.toml, checkpoints and files of weights carry."""

import uuid
from pathlib import Path
from typing import Any

from charladder.errors import UserError

RUN_KEY = "run"  # the entry of a file's metadata, and of a checkpoint's state


def new_identity() -> str:
    """A random id, from the operating system: it leaves the random numbers of a training as they are."""
    return uuid.uuid4().hex


def identity_metadata(identity: str | None) -> dict[str, str]:
    """What the metadata of a file of the run `identity` has; nothing for a run without one."""
    return {} if identity is None else {RUN_KEY: identity}


def check_identity(path: Path, file_identity: Any, folder: Path, identity: str | None) -> None:
    """Raises UserError where the file at `path` was written by another run than that in `folder`, whose id is
    `identity`. Files and runs without an id are not checked: older versions and other programs write none."""
    if file_identity is None or identity is None or file_identity == identity:
        return
    raise UserError(
        f"{path} was written by the run {str(file_identity)[:8]}, and {folder} is the run {identity[:8]}; put the file "
        f"of this run back, or, if it was replaced on purpose, "
        f"remove the [identity] table from {folder / 'config.toml'}"
    )
