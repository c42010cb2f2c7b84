"""The displayed time left: the first step, which compiles and warms up, is not counted."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from charladder.cli import study_progress
from charladder.cli.study_progress import StudyProgress
from charladder.cli.terminal import Terminal
from charladder.cli.training_progress import TrainingProgress
from charladder.studies.directory import PlannedRun, list_planned_runs
from charladder.studies.plan import Plan
from charladder.studies.runner import RunFinished, RunProgress, RunStarted
from charladder.training import StepCompleted
from studies.fakes import make_plan

FIRST, EACH, STEPS = 60.0, 1.0, 100  # seconds of the first step and of every other, and how many there are


def shown(step: int, begin: int = 0, minutes: float = 0.0) -> str:
    """What stands after `left` when a display that began at a step has seen the steps up to another one."""
    trainer: Any = SimpleNamespace(
        progress=0.0, settings=SimpleNamespace(minutes=minutes), windows=SimpleNamespace(passes=0.0),
        network=SimpleNamespace(settings=SimpleNamespace(layers=1)),
    )  # fmt: skip
    display = TrainingProgress(Terminal(quiet=True), trainer)
    for number in range(begin + 1, step + 1):
        seconds = FIRST + EACH * (number - 1)
        trainer.progress = seconds / (60 * minutes) if minutes else number / STEPS
        line = {"step": number, "characters": 10 * number, "seconds": seconds, "terms": {"main": {"bits": 2.0}}}
        facts: Any = None
        display.show(StepCompleted(line, facts))
    return display.plain_line()


@pytest.mark.parametrize(("step", "left"), [(1, "?"), (2, "1:38"), (10, "1:30"), (100, "0:00")])
def test_a_first_step_that_takes_long_does_not_count(step, left):
    assert f"left {left} " in shown(step)


def test_a_run_that_goes_on_has_a_pace_of_its_own():
    assert "left ? " in shown(51, begin=50)
    assert "left 0:48 " in shown(52, begin=50)


def test_of_minutes_is_left_what_is_not_spent():
    assert "left 1:00 " in shown(1, minutes=2)
    assert "left 0:30 " in shown(31, minutes=2)


def test_neither_does_it_count_for_the_speed():
    assert "? chars/s" in shown(1)
    assert " 10 chars/s" in shown(2)


def table_at(monkeypatch: pytest.MonkeyPatch, plan: Plan, events: list[tuple[float, Any]]) -> str:
    now = 0.0
    monkeypatch.setattr(study_progress.time, "monotonic", lambda: now)
    table = StudyProgress(Terminal(quiet=True), plan, 1)
    for at, event in events:
        now = at
        table.show(event)
    return table.time_left()


def test_study_does_not_count_the_start_of_processes(monkeypatch):
    """Runs of 100 seconds, of which the first begins 20 seconds after its process has been started."""
    plan = make_plan(seeds=2)
    runs: list[PlannedRun] = list_planned_runs(plan, Path("nowhere"))
    assert len(runs) == 4
    begun = [(0.0, RunStarted(runs[0], False)), (2.0, RunProgress(runs[0], 0.0, None))]
    first = [*begun, (21.0, RunProgress(runs[0], 0.01, 8.0))]
    assert table_at(monkeypatch, plan, begun) == "?"
    assert table_at(monkeypatch, plan, first) == "?"
    assert table_at(monkeypatch, plan, [*first, (30.0, RunProgress(runs[0], 0.1, 5.0))]) == "6:30"
    assert (
        table_at(monkeypatch, plan, [(0.0, RunStarted(runs[0], False)), (1.0, RunFinished(runs[0], 2.0, 1.0))])
        == "0:03"
    )
    before = [(0.0, RunFinished(run, 2.0, 0.0, already_finished=True)) for run in runs[1:]]
    assert table_at(monkeypatch, plan, [*before, *first, (70.0, RunProgress(runs[0], 0.5, 5.0))]) == "0:50"
