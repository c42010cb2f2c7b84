"""The progress of a study: a live table on a terminal, a line for each run elsewhere."""

import time
from statistics import fmean

from rich.console import Console, Group
from rich.text import Text

from charladder.cli.progress import LiveDisplay, format_time_left
from charladder.cli.tables import AdaptiveTable
from charladder.studies.plan import Plan
from charladder.studies.runner import Event, RunFailed, RunFinished, RunInterrupted, RunProgress, RunStarted

_RunKey = tuple[str, int]


class StudyProgress(LiveDisplay):
    """Displays the events of `run_plan`, which are passed to `show`."""

    def __init__(self, console: Console, plan: Plan, jobs: int) -> None:
        super().__init__(console, refresh_per_second=2)
        self.plan, self.jobs = plan, jobs
        self.cells: dict[_RunKey, str] = {}
        self.scores: dict[_RunKey, float] = {}
        self.progress_by_run: dict[_RunKey, float] = {}  # of the runs that are being trained
        self.ended_runs, self.already_finished, self.started_at = 0, 0, time.monotonic()
        self.pace_start: tuple[float, float] | None = None  # time, and runs done by then

    def show(self, event: Event) -> None:
        key = event.run.arm.name, event.run.seed
        name = f"{key[0]} seed {key[1]}"
        if isinstance(event, RunStarted):
            self.progress_by_run[key], self.cells[key] = 0.0, "started"
            if self.live is None and event.resumed:
                self._print_line(f"{name}: resumed")
        elif isinstance(event, RunProgress):
            self.progress_by_run[key] = event.progress
            if self.pace_start is None and event.progress > 0:  # so that the start of processes is not counted
                self.pace_start = time.monotonic(), self._done_runs()
            self.cells[key] = f"{event.progress:.0%}" + (f" {event.bits:.2f}" if event.bits is not None else "")
        else:
            self.progress_by_run.pop(key, None)
            self.ended_runs += 1
            self.already_finished += isinstance(event, RunFinished) and event.already_finished
            if self.pace_start is None and self.ended_runs > self.already_finished:
                self.pace_start = self.started_at, 0.0
            self._show_end(key, name, event)
        if self.live:
            self.live.update(self._render_table())

    def _show_end(self, key: _RunKey, name: str, event: RunFinished | RunFailed | RunInterrupted) -> None:
        """Updates the cell of a run that has ended, or prints its line."""
        if isinstance(event, RunFinished):
            self.scores[key], self.cells[key] = event.bits, f"{event.bits:.4f}"
            how = "finished before" if event.already_finished else f"{event.seconds:.0f} s"
            ended = f"{self.ended_runs} of {self.total_runs}"
            result = f"{event.bits:.4f} bits per character ({how}; {ended}, left {self.time_left()})"
        elif isinstance(event, RunFailed):
            self.cells[key], result = "failed", f"failed with exit code {event.exit_code}; see {event.run.log_path}"
        else:
            self.cells[key], result = "stopped", "stopped and saved"
        if self.live is None:
            self._print_line(f"{name}: {result}")

    def _print_line(self, sentence: str) -> None:
        self.console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    @property
    def total_runs(self) -> int:
        return len(self.plan.arms) * len(self.plan.seeds)

    def _done_runs(self) -> float:
        """Runs done since the start, with the progress of those that are being trained."""
        return self.ended_runs - self.already_finished + sum(self.progress_by_run.values())

    def time_left(self) -> str:
        """Remaining time at the mean pace so far; `?` while the pace is unknown."""
        if self.pace_start is None or self._done_runs() <= self.pace_start[1]:
            return "?"
        (since, done_before), done = self.pace_start, self._done_runs()
        remaining = self.total_runs - self.already_finished - done
        return format_time_left((time.monotonic() - since) * remaining / (done - done_before))

    def _render_table(self) -> Group:
        table = AdaptiveTable("arm", *(f"seed {seed}" for seed in self.plan.seeds), "mean")
        for arm in self.plan.arms:
            scores = [self.scores[arm.name, seed] for seed in self.plan.seeds if (arm.name, seed) in self.scores]
            cells = [self.cells.get((arm.name, seed), "-") for seed in self.plan.seeds]
            table.add_row(arm.name, *cells, Text(f"{fmean(scores):.4f}" if scores else "-", style="bold"))
        ended = f"{self.ended_runs} of {self.total_runs} runs"
        line = f"  {ended}, {self.jobs} at once, left {self.time_left()}; bits per character"
        return Group(table, Text(line, style="dim"))
