"""--track of `train` and `study`: the tracker of a run, and what is printed about it."""

import argparse
import shlex
from types import TracebackType
from typing import Self

from rich.console import Console

from charladder.run import Run
from charladder.shell_words import quote_path
from charladder.tracking import FINISH_SECONDS, TrackerProcess, check_tracker
from charladder.training.distributed import is_rank_zero, on_rank_zero

_QUIET_SECONDS = 2.0  # a tracker that ends sooner is waited for without a line
_INTERRUPTED_SECONDS = 5.0  # after an interruption the tracker gets this long, and then ends without being waited for


def add_track_option(group: argparse._ActionsContainer) -> None:
    """--track, for commands that train."""
    help_text = "send the metrics to wandb, trackio, tensorboard or mlflow"
    group.add_argument("--track", metavar="NAME", help=help_text)


def check_track_option(tracker: str | None) -> None:
    """Raises UserError for a tracker that does not exist, or that is not installed where rank 0 runs."""
    if tracker is not None:
        on_rank_zero(lambda: check_tracker(tracker))


class RunTracking:
    """A context manager that sends the metrics of a run to a tracker; of rank 0 only. tracker: None for none."""

    def __init__(self, console: Console, run: Run, tracker: str | None) -> None:
        self.console, self.run = console, run
        self.tracker = tracker if is_rank_zero() else None
        self._process: TrackerProcess | None = None
        self._place: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.finish(False)

    @property
    def resume_option(self) -> str:
        """The end of a command that resumes the run, with the same tracker."""
        return "" if self.tracker is None else f" --track {shlex.quote(self.tracker)}"

    def watch(self) -> None:
        """Starts the tracker, at the first call, and reports that it has stopped. Called after each event of training,
        because metrics.jsonl of a resumed run is ready only then."""
        if self.tracker is None:
            return
        if self._process is None:
            self._process = TrackerProcess(self.run.path, self.tracker)
        self._report(self._process, self._process.take_failure())

    def finish(self, finished: bool) -> list[str]:
        """Waits until all metrics are sent, or some seconds if training was interrupted: then the rest is sent later,
        without being waited for. Returns sentences for the user. finished: training ended by itself."""
        process, self._process = self._process, None
        if process is None:
            return []
        process.request_end(finished)
        if not finished and not process.is_done(_INTERRUPTED_SECONDS):
            return []
        if not process.is_done(_QUIET_SECONDS):
            self._print(f"waiting for {self.tracker}, at most {FINISH_SECONDS:g} seconds")
        return self._report(process, process.close(finished))

    def _report(self, process: TrackerProcess, failure: str | None) -> list[str]:
        """Prints where the run is, once, and the failure. Returns the sentence about the failure."""
        if process.place is not None and self._place is None:
            self._place = process.place
            self._print(f"tracked by {self.tracker}: {self._place}")
        if failure is None:
            return []
        command = f"charladder train --resume {quote_path(self.run.path)}{self.resume_option}"
        sentence = (
            f"{self.tracker} stopped: {failure.rstrip('.')}; training is not affected, metrics.jsonl has every value, "
            f"tracking.log what {self.tracker} printed, and {command} sends the rest"
        )
        self._print(f"note: {sentence}")
        return [sentence]

    def _print(self, sentence: str) -> None:
        self.console.print(sentence, highlight=False, markup=False, soft_wrap=True)
