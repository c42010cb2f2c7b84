"""Trains the runs of a plan: each is a process of `charladder train`, and several can run at once.

`run_plan` yields events, from which the caller displays progress.
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
from charladder.tracking import ARM_VARIABLE, GROUP_VARIABLE
from charladder.training.devices import choose_device

POLL_SECONDS = 0.1  # between two polls of the processes
PROGRESS_SECONDS = 2.0  # between two reads of their metrics
STOP_TIMEOUT_SECONDS = 10.0  # for a process to save and stop, before it is killed
INTERRUPTED_EXIT_CODE = 130


@dataclass(frozen=True)
class RunStarted:
    """A process was started. resumed: the run directory existed before."""

    run: PlannedRun
    resumed: bool


@dataclass(frozen=True)
class RunProgress:
    """Progress in [0, 1] and bits at the last logged step of a run."""

    run: PlannedRun
    progress: float
    bits: float | None


@dataclass(frozen=True)
class RunFinished:
    """A run has finished. bits: of the whole valid part. already_finished: before `run_plan` was called."""

    run: PlannedRun
    bits: float
    seconds: float
    already_finished: bool = False


@dataclass(frozen=True)
class RunFailed:
    """A process ended without a score and was not asked to stop; its log has the reason."""

    run: PlannedRun
    exit_code: int


@dataclass(frozen=True)
class RunInterrupted:
    """A run was stopped and saved; the next `run_plan` resumes it."""

    run: PlannedRun


Event = RunStarted | RunProgress | RunFinished | RunFailed | RunInterrupted


@dataclass
class ChildProcess:
    """A process that trains a run. slot: which of the concurrent runs it is, from 0."""

    run: PlannedRun
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    slot: int
    started_at: float


def run_plan(
    plan: Plan,
    folder: Path,
    jobs: int,
    stop: Callable[[], bool] = lambda: False,
    tracker: str | None = None,
) -> Generator[Event, None, None]:
    """Trains the unfinished runs, `jobs` at once, until all have ended or `stop` returns True. tracker: receives the
    metrics of each run, with the plan and the arm.

    Raises UserError, before any run starts, where the folder holds another plan.
    """
    with open_study_directory(plan, folder) as plan:
        waiting: list[PlannedRun] = []
        for run in list_planned_runs(plan, folder):
            bits = read_final_bits(plan, run)
            if bits is None:
                waiting.append(run)
            else:
                yield RunFinished(run, bits, 0.0, already_finished=True)
        children: list[ChildProcess] = []
        try:
            yield from _run_processes(plan, waiting, children, jobs, stop, tracker)
        finally:
            _stop_all(children)


def _run_processes(
    plan: Plan,
    waiting: list[PlannedRun],
    children: list[ChildProcess],
    jobs: int,
    stop: Callable[[], bool],
    tracker: str | None,
) -> Iterator[Event]:
    """Starts a process for every free slot, and yields the events of all processes."""
    stopping, last_progress = False, time.monotonic()
    while children or (waiting and not stopping):
        if stop() and not stopping:
            stopping = True
            waiting.clear()
            for child in children:
                _request_stop(child)
        while waiting and len(children) < jobs:
            slot = min(set(range(jobs)) - {child.slot for child in children})
            run = waiting.pop(0)
            resumed = run.path.exists()
            children.append(start_run(plan, run, slot, jobs, tracker))
            yield RunStarted(run, resumed)
        for child in [child for child in children if child.process.poll() is not None]:
            children.remove(child)
            child.log.close()
            yield _end_event(plan, child, stopping)
        if time.monotonic() - last_progress > PROGRESS_SECONDS:
            last_progress = time.monotonic()
            for child in list(children):
                yield RunProgress(child.run, *read_progress(child.run))
        if children:
            time.sleep(POLL_SECONDS)


def _end_event(plan: Plan, child: ChildProcess, stopping: bool) -> Event:
    """The event for a process that has ended."""
    bits, code = read_final_bits(plan, child.run), child.process.returncode
    if code == 0 and bits is not None:
        return RunFinished(child.run, bits, time.monotonic() - child.started_at)
    # These are the exit codes of a process that is stopped before it has installed its signal handlers.
    if code == INTERRUPTED_EXIT_CODE or (stopping and code in (1, -signal.SIGINT, -signal.SIGTERM)):
        return RunInterrupted(child.run)
    return RunFailed(child.run, code)


def train_arguments(plan: Plan, run: PlannedRun, tracker: str | None = None) -> list[str]:
    """The arguments of `charladder` that start or resume a run."""
    track = [] if tracker is None else [f"--track={tracker}"]
    if run.path.exists():
        return ["train", f"--resume={run.path}", "--score=whole", "--json", *track]
    fields = training_options(plan, run.arm, run.seed).items()
    options = [f"--{name}={format_option_value(value)}" for name, value in fields]
    return [
        "train",
        f"--run={run.path}",
        f"--recipe={plan.base}",
        *options,
        "--score=whole",
        "--json",
        *track,
        "--",
        *plan.data,
    ]


def start_run(plan: Plan, run: PlannedRun, slot: int, jobs: int, tracker: str | None = None) -> ChildProcess:
    """Starts a run in a new session, so that the terminal does not send it Ctrl-C; the parent requests the stop."""
    command = [
        sys.executable,
        "-m",
        "charladder.studies.end_with_parent",
        str(os.getpid()),
        *train_arguments(plan, run, tracker),
    ]
    log = run.log_path.open("ab")
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env=child_environment(plan, slot, jobs) | {GROUP_VARIABLE: plan.name, ARM_VARIABLE: run.arm.name},
            start_new_session=True,
        )  # fmt: skip
    except BaseException:
        log.close()
        raise
    return ChildProcess(run, process, log, slot, time.monotonic())


def child_environment(plan: Plan, slot: int, jobs: int) -> dict[str, str]:
    """The environment of the run in a slot: where `jobs` is above 1, its share of the cores and its GPU."""
    environment = dict(os.environ)
    if jobs > 1:
        environment["OMP_NUM_THREADS"] = str(threads_per_run(jobs))
        if training_device(plan) == "cuda":
            gpus = environment.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
            environment["CUDA_VISIBLE_DEVICES"] = gpus.split(",")[slot % len(gpus.split(","))]
    return environment


def threads_per_run(jobs: int) -> int:
    """The threads of each of several concurrent runs: its share of the cores, and at most OMP_NUM_THREADS."""
    share, threads = max(1, available_cores() // jobs), os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(threads)) if threads.isdecimal() and int(threads) else share


def default_jobs(plan: Plan) -> int:
    """How many runs to train at once: one for each GPU, or for every two cores. One where the budget is in minutes, as
    concurrent runs would get less done in them."""
    if any("training.minutes" in {**plan.fields, **arm.fields} for arm in plan.arms):
        return 1
    device = training_device(plan)
    if device == "cuda":
        return max(1, torch.cuda.device_count())
    return max(1, available_cores() // 2) if device == "cpu" and available_cores() >= 4 else 1


def training_device(plan: Plan) -> str:
    """The device of the runs, such as cpu, cuda or cuda:1."""
    return str(choose_device(resolve_recipe(plan, plan.arms[0], plan.seeds[0]).training.device))


def available_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _request_stop(child: ChildProcess) -> None:
    """Requests that a process saves and stops. Processes that a shell starts in the background ignore SIGINT, and so do
    their children, so the signal is SIGTERM."""
    with contextlib.suppress(OSError, ValueError):
        child.process.send_signal(signal.SIGTERM)


def _stop_all(children: list[ChildProcess]) -> None:
    """Stops all processes, and kills those that do not stop in time."""
    for child in children:
        _request_stop(child)
    deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
    for child in children:
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
        finally:
            child.log.close()
