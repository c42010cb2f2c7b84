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

FIRST_STEP_SECONDS, STEP_SECONDS, STEPS = 60.0, 1.0, 100


def displayed_line(step: int, start_step: int = 0, minutes: float = 0.0) -> str:
    """The line that is displayed after the steps `start_step` + 1 to `step`."""
    trainer: Any = SimpleNamespace(
        progress=0.0, settings=SimpleNamespace(minutes=minutes), windows=SimpleNamespace(passes=0.0),
        network=SimpleNamespace(settings=SimpleNamespace(layers=1)),
    )  # fmt: skip
    display = TrainingProgress(Terminal(quiet=True), trainer)
    for number in range(start_step + 1, step + 1):
        seconds = FIRST_STEP_SECONDS + STEP_SECONDS * (number - 1)
        trainer.progress = seconds / (60 * minutes) if minutes else number / STEPS
        line = {"step": number, "characters": 10 * number, "seconds": seconds, "terms": {"main": {"bits": 2.0}}}
        facts: Any = None
        display.show(StepCompleted(line, facts))
    return display.plain_line()


@pytest.mark.parametrize(("step", "left"), [(1, "?"), (2, "1:38"), (10, "1:30"), (100, "0:00")])
def test_first_step_is_not_counted_for_the_time_left(step, left):
    assert f"left {left} " in displayed_line(step)


def test_resumed_run_measures_its_own_speed():
    assert "left ? " in displayed_line(51, start_step=50)
    assert "left 0:48 " in displayed_line(52, start_step=50)


def test_time_left_of_a_budget_in_minutes():
    assert "left 1:00 " in displayed_line(1, minutes=2)
    assert "left 0:30 " in displayed_line(31, minutes=2)


def test_first_step_is_not_counted_for_the_speed():
    assert "? chars/s" in displayed_line(1)
    assert " 10 chars/s" in displayed_line(2)


def study_time_left(monkeypatch: pytest.MonkeyPatch, plan: Plan, events: list[tuple[float, Any]]) -> str:
    now = 0.0
    monkeypatch.setattr(study_progress.time, "monotonic", lambda: now)
    table = StudyProgress(Terminal(quiet=True), plan, 1)
    for event_time, event in events:
        now = event_time
        table.show(event)
    return table.time_left()


def test_study_time_left_excludes_the_start_of_processes(monkeypatch):
    """Runs of 100 seconds; the first one starts to train 20 seconds after its process."""
    plan = make_plan(seeds=2)
    runs: list[PlannedRun] = list_planned_runs(plan, Path("nowhere"))
    assert len(runs) == 4
    started = [(0.0, RunStarted(runs[0], False)), (2.0, RunProgress(runs[0], 0.0, None))]
    first = [*started, (21.0, RunProgress(runs[0], 0.01, 8.0))]
    assert study_time_left(monkeypatch, plan, started) == "?"
    assert study_time_left(monkeypatch, plan, first) == "?"
    assert study_time_left(monkeypatch, plan, [*first, (30.0, RunProgress(runs[0], 0.1, 5.0))]) == "6:30"
    assert (
        study_time_left(monkeypatch, plan, [(0.0, RunStarted(runs[0], False)), (1.0, RunFinished(runs[0], 2.0, 1.0))])
        == "0:03"
    )
    before = [(0.0, RunFinished(run, 2.0, 0.0, already_finished=True)) for run in runs[1:]]
    assert study_time_left(monkeypatch, plan, [*before, *first, (70.0, RunProgress(runs[0], 0.5, 5.0))]) == "0:50"
