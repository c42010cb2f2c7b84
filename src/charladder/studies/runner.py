"""Carries a plan out: each run is a process of `charladder train`, several at once where the machine has room.

It is an iterator of events, so that whoever displays a plan needs nothing from whoever carries it out.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from charladder.studies.directory import (
    PlannedRun,
    list_planned_runs,
    open_study_directory,
    read_final_bits,
    read_progress,
)
from charladder.studies.plan import Plan, format_option_value, resolve_recipe, training_options
from charladder.training.devices import choose_device

POLL_SECONDS = 0.1  # seconds between two looks at the processes
PROGRESS_SECONDS = 2.0  # seconds between two looks at what they have logged
STOP_TIMEOUT_SECONDS = 10.0  # seconds in which a process may save when it must end at once
INTERRUPTED_EXIT_CODE = 130


@dataclass(frozen=True)
class RunStarted:
    """A process has been started; `again` where the run had begun before."""

    run: PlannedRun
    resumed: bool


@dataclass(frozen=True)
class RunProgress:
    """How far a run is, and the bits of its last logged step."""

    run: PlannedRun
    progress: float
    bits: float | None


@dataclass(frozen=True)
class RunFinished:
    """A run is done, with its bits on the whole valid part; `before` where it was when the plan was taken up."""

    run: PlannedRun
    bits: float
    seconds: float
    already_finished: bool = False


@dataclass(frozen=True)
class RunFailed:
    """A process ended with neither a score nor a request to stop; its log says why."""

    run: PlannedRun
    exit_code: int


@dataclass(frozen=True)
class RunInterrupted:
    """A run was stopped, saved, and goes on when the plan does."""

    run: PlannedRun


Event = RunStarted | RunProgress | RunFinished | RunFailed | RunInterrupted


@dataclass
class ChildProcess:
    """A process at work on a run."""

    run: PlannedRun
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    slot: int
    started_at: float


def run_plan(
    plan: Plan, folder: Path, jobs: int, stop: Callable[[], bool] = lambda: False
) -> Generator[Event, None, None]:
    """Trains all that is not finished, `jobs` runs at once, until all have ended or `stop` says so.

    Raises UserError, before anything starts, where the folder holds something else.
    """
    with open_study_directory(plan, folder) as plan:
        waiting: list[PlannedRun] = []
        for run in list_planned_runs(plan, folder):
            bits = read_final_bits(plan, run)
            if bits is None:
                waiting.append(run)
            else:
                yield RunFinished(run, bits, 0.0, already_finished=True)
        at_work: list[ChildProcess] = []
        try:
            yield from _run_processes(plan, waiting, at_work, jobs, stop)
        finally:
            _stop_all(at_work)


def _run_processes(
    plan: Plan, waiting: list[PlannedRun], at_work: list[ChildProcess], jobs: int, stop: Callable[[], bool]
) -> Iterator[Event]:
    """Starts processes while there are slots, and says what becomes of them."""
    told, looked = False, time.monotonic()
    while at_work or (waiting and not told):
        if stop() and not told:
            told = True
            waiting.clear()
            for child in at_work:
                _request_stop(child)
        while waiting and len(at_work) < jobs:
            slot = min(set(range(jobs)) - {child.slot for child in at_work})
            run = waiting.pop(0)
            again = run.path.exists()
            at_work.append(start_run(plan, run, slot, jobs))
            yield RunStarted(run, again)
        for child in [child for child in at_work if child.process.poll() is not None]:
            at_work.remove(child)
            child.log.close()
            yield _end_event(plan, child, told)
        if time.monotonic() - looked > PROGRESS_SECONDS:
            looked = time.monotonic()
            for child in list(at_work):
                yield RunProgress(child.run, *read_progress(child.run))
        if at_work:
            time.sleep(POLL_SECONDS)


def _end_event(plan: Plan, child: ChildProcess, told: bool) -> Event:
    """What became of a process that has ended."""
    bits, code = read_final_bits(plan, child.run), child.process.returncode
    if code == 0 and bits is not None:
        return RunFinished(child.run, bits, time.monotonic() - child.started_at)
    # One that was asked to stop before it could listen ends as Python does, and has lost nothing.
    if code == INTERRUPTED_EXIT_CODE or (told and code in (1, -signal.SIGINT, -signal.SIGTERM)):
        return RunInterrupted(child.run)
    return RunFailed(child.run, code)


def train_arguments(plan: Plan, run: PlannedRun) -> list[str]:
    """The words of `charladder train` for a run: those that begin it, or that go on with it."""
    if run.path.exists():
        return ["train", "--resume", str(run.path), "--score=whole", "--json"]
    fields = training_options(plan, run.arm, run.seed).items()
    options = [f"--{name}={format_option_value(value)}" for name, value in fields]
    return [
        "train",
        f"--run={run.path}",
        f"--recipe={plan.base}",
        *options,
        "--score=whole",
        "--json",
        "--",
        *plan.data,
    ]


def start_run(plan: Plan, run: PlannedRun, slot: int, jobs: int) -> ChildProcess:
    """Starts a run, in a session of its own: Ctrl-C comes to it once, by us, and not from the terminal as well."""
    command = [sys.executable, "-m", "charladder.studies.child_process", str(os.getpid()), *train_arguments(plan, run)]
    log = run.log_path.open("ab")
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=child_environment(plan, slot, jobs),
            start_new_session=True,
        )  # fmt: skip
    except BaseException:
        log.close()
        raise
    return ChildProcess(run, process, log, slot, time.monotonic())


def child_environment(plan: Plan, slot: int, jobs: int) -> dict[str, str]:
    """The environment of the run in a slot: its share of the cores, and its GPU. Of one run at a time: as it is."""
    found = dict(os.environ)
    if jobs > 1:
        share = max(1, available_cores() // jobs)
        own = found.get("OMP_NUM_THREADS", "")
        found["OMP_NUM_THREADS"] = str(min(share, int(own)) if own.isdecimal() and int(own) else share)
        if training_device(plan) == "cuda":
            cards = found.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
            found["CUDA_VISIBLE_DEVICES"] = cards.split(",")[slot % len(cards.split(","))]
    return found


def default_jobs(plan: Plan) -> int:
    """How many runs at once: one where seconds are the budget, for they are equal on a quiet machine only; otherwise
    one a GPU, or two cores each."""
    if any("training.minutes" in {**plan.fields, **arm.fields} for arm in plan.arms):
        return 1
    device = training_device(plan)
    if device == "cuda":
        return max(1, torch.cuda.device_count())
    return max(1, available_cores() // 2) if device == "cpu" and available_cores() >= 4 else 1


def training_device(plan: Plan) -> str:
    """What the runs train on; a GPU that the plan names by number is not ours to share out."""
    return str(choose_device(resolve_recipe(plan, plan.arms[0], plan.seeds[0]).training.device))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _request_stop(child: ChildProcess) -> None:
    """Asks a process to save and stop: not by SIGINT, which what a shell starts in the background ignores, and whatever
    that starts."""
    with contextlib.suppress(OSError, ValueError):
        child.process.send_signal(signal.SIGTERM)


def _stop_all(children: list[ChildProcess]) -> None:
    """Nobody at work outlives us: they are asked, and after a while killed."""
    for child in children:
        _request_stop(child)
    until = time.monotonic() + STOP_TIMEOUT_SECONDS
    for child in children:
        try:
            child.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
        finally:
            child.log.close()
