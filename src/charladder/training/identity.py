"""The identity of a run: a random id in config.toml, checkpoints and weight files."""

import uuid
from pathlib import Path
from typing import Any

from charladder.errors import UserError

RUN_KEY = "run"  # key of the identity in the metadata of weight files and in the state of checkpoints


def new_identity() -> str:
    """A random id from the operating system, which does not change the state of other random generators."""
    return uuid.uuid4().hex


def identity_metadata(identity: str | None) -> dict[str, str]:
    """The metadata entry of a file of the run `identity`; empty for a run without one."""
    return {} if identity is None else {RUN_KEY: identity}


def check_identity(path: Path, file_identity: Any, folder: Path, identity: str | None) -> None:
    """Raises UserError if the file at `path` was written by another run than that in `folder`, whose id is `identity`.
    Files and runs without an id are not checked, because older versions and other programs write none."""
    if file_identity is None or identity is None or file_identity == identity:
        return
    raise UserError(
        f"{path} was written by the run {str(file_identity)[:8]}, and {folder} is the run {identity[:8]}; restore the "
        f"file of this run, or, if it was replaced on purpose, "
        f"remove the [identity] table from {folder / 'config.toml'}"
    )
