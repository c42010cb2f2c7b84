"""trackio: local, in its own folder (TRACKIO_DIR), without an account."""

import os
import shlex

import trackio  # pyright: ignore[reportMissingImports]

from charladder.tracking.tracked_run import TrackedRun


class TrackioTracker:
    """A run of the project TRACKIO_PROJECT, by default `charladder`; its group is the plan."""

    def start(self, run: TrackedRun) -> str:
        project = os.environ.get("TRACKIO_PROJECT") or "charladder"
        self._run = trackio.init(
            project=project, name=f"{run.name}-{run.identity[:8]}", group=run.group,
            config={**run.labels, **run.config}, resume="allow", embed=False,
        )  # fmt: skip
        return f"trackio show {shlex.quote(f'--project={project}')}"

    def log(self, values: dict[str, float], step: int) -> None:
        trackio.log(values, step=step)

    def flush(self) -> None:
        pass

    def finish(self, finished: bool) -> None:
        trackio.finish()
