"""What a person sees while a plan is carried out: a live table on a terminal, a line a run elsewhere."""

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
    """A context manager; `show` takes the events of the runner."""

    def __init__(self, console: Console, plan: Plan, jobs: int) -> None:
        super().__init__(console, refresh_per_second=2)
        self.plan, self.jobs = plan, jobs
        self.cells: dict[_RunKey, str] = {}
        self.scores: dict[_RunKey, float] = {}
        self.progress_by_run: dict[_RunKey, float] = {}  # progress
        self.ended_runs, self.already_finished, self.started_at = 0, 0, time.monotonic()
        self.pace_start: tuple[float, float] | None = (
            None  # when the pace began to be measured, and the runs done by then
        )

    def show(self, event: Event) -> None:
        key = event.run.arm.name, event.run.seed
        name = f"{key[0]} seed {key[1]}"
        if isinstance(event, RunStarted):
            self.progress_by_run[key], self.cells[key] = 0.0, "begun"
            if self.live is None and event.resumed:
                self._print_line(f"{name}: goes on")
        elif isinstance(event, RunProgress):
            self.progress_by_run[key] = event.progress
            if self.pace_start is None and event.progress > 0:  # not before: processes take a while to start
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
        """A run has ended, well or not."""
        if isinstance(event, RunFinished):
            self.scores[key], self.cells[key] = event.bits, f"{event.bits:.4f}"
            how = "finished before" if event.already_finished else f"{event.seconds:.0f} s"
            ended = f"{self.ended_runs} of {self.total_runs}"
            said = f"{event.bits:.4f} bits per character ({how}; {ended}, left {self.time_left()})"
        elif isinstance(event, RunFailed):
            self.cells[key], said = "failed", f"failed with exit code {event.exit_code}; see {event.run.log_path}"
        else:
            self.cells[key], said = "stopped", "stopped and saved"
        if self.live is None:
            self._print_line(f"{name}: {said}")

    def _print_line(self, sentence: str) -> None:
        self.console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    @property
    def total_runs(self) -> int:
        return len(self.plan.arms) * len(self.plan.seeds)

    def _done_runs(self) -> float:
        """Runs done by now, parts of those at work included; without those that were finished before."""
        return self.ended_runs - self.already_finished + sum(self.progress_by_run.values())

    def time_left(self) -> str:
        """Time left by the pace so far."""
        if self.pace_start is None or self._done_runs() <= self.pace_start[1]:
            return "?"
        since, before = self.pace_start
        seconds = (
            (time.monotonic() - since)
            * (self.total_runs - self.already_finished - self._done_runs())
            / (self._done_runs() - before)
        )
        return format_time_left(seconds)

    def _render_table(self) -> Group:
        table = AdaptiveTable("arm", *(f"seed {seed}" for seed in self.plan.seeds), "mean")
        for arm in self.plan.arms:
            scores = [self.scores[arm.name, seed] for seed in self.plan.seeds if (arm.name, seed) in self.scores]
            cells = [self.cells.get((arm.name, seed), "-") for seed in self.plan.seeds]
            table.add_row(arm.name, *cells, Text(f"{fmean(scores):.4f}" if scores else "-", style="bold"))
        ended = f"{self.ended_runs} of {self.total_runs} runs"
        line = f"  {ended}, {self.jobs} at once, left {self.time_left()}; bits per character"
        return Group(table, Text(line, style="dim"))
