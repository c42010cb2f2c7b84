"""The stages of `charladder study`: the sweep, the comparison, and the reports of both."""

import contextlib
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from charladder.cli.signals import INTERRUPTED_EXIT_CODE, stop_on_signal
from charladder.cli.study_progress import StudyProgress
from charladder.cli.terminal import print_message
from charladder.errors import UserError
from charladder.strict_json import dumps
from charladder.studies.directory import list_planned_runs, lock_study_directory
from charladder.studies.plan import Plan, format_option_value
from charladder.studies.runner import RunFailed, RunFinished, RunInterrupted, run_plan
from charladder.studies.sweep import chosen_values, sweep_directory, sweep_plan, tuned_plan, values_at_edge

Ends = list[RunFinished | RunFailed | RunInterrupted]


@dataclass(frozen=True)
class StudyTraining:
    """How the runs of a study are trained: `jobs` at once, until `deadline` of time.monotonic(). argv: the arguments of
    the command, which continues the study."""

    console: Console
    jobs: int
    tracker: str | None
    argv: list[str]
    deadline: float

    def train(self, plan: Plan, folder: Path) -> tuple[int, Ends]:
        """Trains the runs and shows their progress; returns the exit code and how the runs ended."""
        signals: list[int] = []
        ends: Ends = []

        def should_stop() -> bool:
            return bool(signals) or time.monotonic() > self.deadline

        events = run_plan(plan, folder, self.jobs, should_stop, self.tracker)
        # Closing the generator stops all processes, also when an error is raised here.
        with stop_on_signal(signals), StudyProgress(self.console, plan, self.jobs) as table, contextlib.closing(events):
            for event in events:
                table.show(event)
                if isinstance(event, RunFinished | RunFailed | RunInterrupted):
                    ends.append(event)
        failed = [end for end in ends if isinstance(end, RunFailed)]
        for end in failed:
            print_message(f"{end.run.path} failed with exit code {end.exit_code}; its log is {end.run.log_path}")
        stopped = len(ends) < len(list_planned_runs(plan, folder)) or any(isinstance(e, RunInterrupted) for e in ends)
        if signals or stopped:
            print_line(self.console, f"stopped and saved; continue with: charladder study {shlex.join(self.argv)}")
            return INTERRUPTED_EXIT_CODE, ends
        return 1 if failed else 0, ends


def run_study(plan: Plan, chosen: Plan | None, folder: Path, training: StudyTraining, as_json: bool) -> int:
    """Trains the sweep, if the plan has one, and the comparison, and writes their reports; returns the exit code.

    chosen: the plan with the values of the sweep, if they were chosen before.
    """
    console, sweep = training.console, {}
    if plan.sweep:
        directory, paths, ends = sweep_directory(folder), [], []
        print_line(console, f"sweep: {directory}{' (chosen before)' if chosen else ''}")
        if chosen is None:
            with lock_study_directory(folder):  # so that no other plan begins there meanwhile
                code, ends = training.train(sweep_plan(plan), directory)
                if code == INTERRUPTED_EXIT_CODE:
                    return code
                paths = write_reports(console, directory)
                chosen = _choose(plan, ends)
        values = chosen_values(plan, chosen) if chosen else {}
        sweep = {"sweep": {**report_json(directory, ends, paths), "chosen": values}}
        if chosen is None:
            if as_json:
                print(dumps({**report_json(folder, [], []), **sweep}))
            return 1
        for sentence in format_choice(plan, chosen):
            print_line(console, sentence)
        plan = chosen
    code, ends = training.train(plan, folder)
    if code != INTERRUPTED_EXIT_CODE:
        paths = write_reports(console, folder)
        if as_json:
            print(dumps({**report_json(folder, ends, paths), **sweep}))
    return code


def _choose(plan: Plan, ends: Ends) -> Plan | None:
    """The plan with the choice of the sweep; None where an arm has none, after a message."""
    bits = {(end.run.arm.name, end.run.seed): end.bits for end in ends if isinstance(end, RunFinished)}
    try:
        chosen = tuned_plan(plan, bits)
    except UserError as error:
        print_message(str(error))
        return None
    for sentence in values_at_edge(plan, chosen):
        print_message(f"note: {sentence}")
    return chosen


def format_choice(plan: Plan, chosen: Plan) -> Iterator[str]:
    """A line for each arm with the values that the sweep has chosen."""
    for arm, values in chosen_values(plan, chosen).items():
        settings = ", ".join(f"{name} = {format_option_value(value)}" for name, value in values.items())
        yield f"chosen for {arm}: {settings or 'nothing was tuned'}"


def print_line(console: Console, sentence: str) -> None:
    """Prints a line without wrapping or markup."""
    console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def write_reports(console: Console, folder: Path) -> list[Path]:
    """Writes the report of the runs in a folder, prints its paths and returns them."""
    # Imported here because it loads scipy and matplotlib.
    from charladder.studies.report_files import write_report

    paths = write_report(folder)
    for path in paths:
        print_line(console, f"report: {path}")
    return paths


def report_json(folder: Path, ends: Ends, paths: list[Path]) -> dict[str, Any]:
    """The folder, the runs that ended in it, and its report."""
    runs = [
        {
            "run": str(end.run.path),
            "arm": end.run.arm.name,
            "seed": end.run.seed,
            "valid_bits_per_character": end.bits if isinstance(end, RunFinished) else None,
            "exit_code": end.exit_code if isinstance(end, RunFailed) else 0,
        }
        for end in ends
    ]
    return {"folder": str(folder), "runs": runs, "report": [str(path) for path in paths]}
