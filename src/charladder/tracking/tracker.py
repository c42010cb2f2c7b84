"""The interface of a tracker, and the trackers by name."""

import importlib
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Protocol

from charladder.errors import UserError, closest_name
from charladder.tracking.tracked_run import TrackedRun


class Tracker(Protocol):
    """Receives the metrics of a run. It runs in a process of its own, so whatever it does or raises cannot change or
    stop training."""

    def start(self, run: TrackedRun) -> str:
        """Opens the run, or continues it if the tracker has a run of this identity. Returns a sentence that says where
        the user finds it."""
        ...

    def log(self, values: dict[str, float], step: int) -> None:
        """Records finite values by name. Steps do not decrease; a validation has the step of the one before it."""
        ...

    def flush(self) -> None:
        """Called after some calls of `log`, twice a second at most."""
        ...

    def finish(self, finished: bool) -> None:
        """Closes the run. finished: training ended by itself; if not, it was interrupted or failed."""
        ...


# The class of each tracker, and the package to install, which is imported under the name of the tracker.
_TRACKERS = {
    "wandb": ("charladder.tracking.wandb_tracker:WandbTracker", "wandb"),
    "trackio": ("charladder.tracking.trackio_tracker:TrackioTracker", "trackio"),
    "tensorboard": ("charladder.tracking.tensorboard_tracker:TensorboardTracker", "tensorboard"),
    "mlflow": ("charladder.tracking.mlflow_tracker:MlflowTracker", "mlflow-skinny"),
}
TRACKER_NAMES = tuple(_TRACKERS)


def check_tracker(name: str) -> None:
    """Raises UserError for a tracker that does not exist, or whose package is not installed. Imports nothing."""
    if name in _TRACKERS:
        if not _is_installed(name):
            raise UserError(
                f"--track {name} needs a package that is not installed; install it with pip install "
                f"{_TRACKERS[name][1]}, or leave out --track"
            )
        return
    module, colon, class_name = name.partition(":")
    if not colon or not class_name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        close = closest_name(name, TRACKER_NAMES)
        raise UserError(
            f"--track is {name!r}; it must be one of {', '.join(TRACKER_NAMES)}, or MODULE:CLASS of a tracker of yours"
            + (f"; did you mean {close}?" if close else "")
        )
    if PathFinder.find_spec(module.split(".")[0], [*sys.path, str(Path.cwd())]) is None:
        raise UserError(f"--track is {name!r}, and there is no module {module} in this folder or among those installed")


def _is_installed(package: str) -> bool:
    """Whether a package is installed. A folder of its name, such as ./wandb with offline runs, is not the package."""
    spec = PathFinder.find_spec(package)
    return spec is not None and spec.origin is not None


def make_tracker(name: str) -> Tracker:
    """The tracker of a name, or of MODULE:CLASS; imports its package. Modules may be in the working directory."""
    module, _, class_name = (_TRACKERS[name][0] if name in _TRACKERS else name).partition(":")
    sys.path.append(str(Path.cwd()))
    return getattr(importlib.import_module(module), class_name)()
