"""Weights & Biases: online for a user who is logged in, else offline in the folder `wandb` of the run directory."""

import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

import wandb  # pyright: ignore[reportMissingImports]

from charladder.shell_words import quote_path
from charladder.tracking.tracked_run import TrackedRun

_KEYS = "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"


class WandbTracker:
    """A run of the project WANDB_PROJECT, by default `charladder`; its group is the plan, its job type the arm."""

    def start(self, run: TrackedRun) -> str:
        mode = os.environ.get("WANDB_MODE") or (None if is_logged_in() else "offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "charladder", id=run.identity, name=run.name,
            group=run.group, job_type=run.arm, config={**run.labels, **run.config}, dir=str(run.path),
            resume=None if mode == "offline" else "allow", mode=mode,
        )  # fmt: skip
        if mode == "offline":
            return f"offline in {run.path / 'wandb'}; wandb sync {quote_path(run.path)}/wandb/offline-run-*"
        return str(self._run.url or run.path / "wandb")

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def flush(self) -> None:
        pass

    def finish(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


def is_logged_in() -> bool:
    """Whether there are credentials, of which only the presence is read: a variable, or an entry in the netrc file."""
    if any(os.environ.get(name) for name in _KEYS):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    given = os.environ.get("NETRC")
    for path in [Path(given)] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if host in netrc.netrc(str(path)).hosts:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
