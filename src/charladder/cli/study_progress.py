"""What a person sees while a plan is carried out: a live table on a terminal, a line a run elsewhere."""

import time
from statistics import fmean
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from charladder.cli.tables import Rows
from charladder.studies.plan import Plan
from charladder.studies.runner import Event, RunFailed, RunFinished, RunInterrupted, RunProgress, RunStarted

Key = tuple[str, int]


class StudyProgress:
    """A context manager; `show` takes the events of the runner."""

    def __init__(self, console: Console, plan: Plan, jobs: int) -> None:
        self.console, self.plan, self.jobs = console, plan, jobs
        self.live = Live(console=console, refresh_per_second=2) if console.is_terminal else None
        self.cells: dict[Key, str] = {}
        self.scores: dict[Key, float] = {}
        self.at_work: dict[Key, float] = {}  # progress
        self.ended, self.before, self.began = 0, 0, time.monotonic()
        self.paced: tuple[float, float] | None = None  # when the pace began to be measured, and the runs done by then

    def __enter__(self) -> "StudyProgress":
        if self.live:
            self.live.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self.live.__exit__(kind, error, trace)

    def show(self, event: Event) -> None:
        key = event.run.arm.name, event.run.seed
        name = f"{key[0]} seed {key[1]}"
        if isinstance(event, RunStarted):
            self.at_work[key], self.cells[key] = 0.0, "begun"
            if self.live is None and event.again:
                self.tell(f"{name}: goes on")
        elif isinstance(event, RunProgress):
            self.at_work[key] = event.progress
            if self.paced is None and event.progress > 0:  # not before: processes take a while to start
                self.paced = time.monotonic(), self.done()
            self.cells[key] = f"{event.progress:.0%}" + (f" {event.bits:.2f}" if event.bits is not None else "")
        else:
            self.at_work.pop(key, None)
            self.ended += 1
            self.before += isinstance(event, RunFinished) and event.before
            if self.paced is None and self.ended > self.before:
                self.paced = self.began, 0.0
            self.conclude(key, name, event)
        if self.live:
            self.live.update(self.table())

    def conclude(self, key: Key, name: str, event: RunFinished | RunFailed | RunInterrupted) -> None:
        """A run has ended, well or not."""
        if isinstance(event, RunFinished):
            self.scores[key], self.cells[key] = event.bits, f"{event.bits:.4f}"
            how = "finished before" if event.before else f"{event.seconds:.0f} s"
            said = f"{event.bits:.4f} bits per character ({how}; {self.ended} of {self.runs}, left {self.left()})"
        elif isinstance(event, RunFailed):
            self.cells[key], said = "failed", f"failed with exit code {event.code}; see {event.run.log}"
        else:
            self.cells[key], said = "stopped", "stopped and saved"
        if self.live is None:
            self.tell(f"{name}: {said}")

    def tell(self, sentence: str) -> None:
        self.console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    @property
    def runs(self) -> int:
        return len(self.plan.arms) * len(self.plan.seeds)

    def done(self) -> float:
        """Runs done by now, parts of those at work included; without those that were finished before."""
        return self.ended - self.before + sum(self.at_work.values())

    def left(self) -> str:
        """Time left by the pace so far."""
        if self.paced is None or self.done() <= self.paced[1]:
            return "?"
        since, before = self.paced
        seconds = (time.monotonic() - since) * (self.runs - self.before - self.done()) / (self.done() - before)
        minutes, rest = divmod(max(0, round(seconds)), 60)
        return f"{minutes}:{rest:02d}"

    def table(self) -> Group:
        table = Rows("arm", *(f"seed {seed}" for seed in self.plan.seeds), "mean")
        for arm in self.plan.arms:
            scores = [self.scores[arm.name, seed] for seed in self.plan.seeds if (arm.name, seed) in self.scores]
            cells = [self.cells.get((arm.name, seed), "-") for seed in self.plan.seeds]
            table.add(arm.name, *cells, Text(f"{fmean(scores):.4f}" if scores else "-", style="bold"))
        line = f"  {self.ended} of {self.runs} runs, {self.jobs} at once, left {self.left()}; bits per character"
        return Group(table, Text(line, style="dim"))
