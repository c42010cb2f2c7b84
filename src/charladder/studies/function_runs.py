"""Calls of a training function, in this process or in others, and what a call returned as a record."""

import contextlib
import copy
import math
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Any

from charladder.errors import UserError, suggest_names
from charladder.studies.end_with_parent import terminate_with_parent
from charladder.studies.records import (
    FAILED,
    FINISHED,
    INVALID,
    STARTED,
    Metrics,
    PlannedCall,
    RunRecord,
    TrainFunction,
    hash_source,
    make_record,
    read_record,
    write_record,
)
from charladder.studies.runner import STOP_TIMEOUT_SECONDS, threads_per_run

_GUARD = 'with processes above 1, call studies.run in a program below `if __name__ == "__main__":`'
_EXPECTED = 'it must return its metrics, such as {"valid_loss": 0.5}, or yield them with a step'


class _NotMetrics(Exception):
    """What a training function returned or yielded is not metrics."""


class _NoFinalMetric(Exception):
    """A training function yielded the metric, but not at the end."""


def run_calls(
    train: TrainFunction, calls: Sequence[PlannedCall], processes: int, metric: str
) -> Generator[tuple[PlannedCall, RunRecord], None, None]:
    """Makes the calls, `processes` at once, and yields each with its record, which is on disk by then.

    One process: in this one. metric: the name of the one that a finished run must have. Raises UserError where the
    function cannot be called in another process.
    """
    if processes == 1:
        source = hash_source(train)  # once: a run may change the lists that are bound to the function
        for call in calls:
            yield call, _call(train, call, metric, source)
        return
    _check_importable(train)
    waiting, children = list(calls), dict[int, tuple[PlannedCall, SpawnProcess]]()
    try:
        while waiting or children:
            while waiting and len(children) < processes:
                call = waiting.pop(0)
                process = _start(train, call, processes, metric)
                children[process.sentinel] = call, process
            for sentinel in wait(list(children)):
                assert isinstance(sentinel, int)
                call, process = children.pop(sentinel)
                process.join()
                yield call, _record_of_ended(call, process)
    finally:
        _stop([process for _, process in children.values()])


def _call(train: TrainFunction, call: PlannedCall, metric: str, source: str | None) -> RunRecord:
    """Calls the function and writes the record. An error of the function is recorded, an interruption is not."""
    begin = time.monotonic()
    try:
        # A copy: a function that changes its settings would change those of the next seed.
        metrics, curve = _collect(train(copy.deepcopy(call.settings), call.seed))
        _check_metric(metrics, curve, metric)
        record = make_record(FINISHED, metrics, curve, time.monotonic() - begin, source_sha256=source)
    except _NoFinalMetric as error:
        record = make_record(FAILED, seconds=time.monotonic() - begin, error=str(error), source_sha256=source)
    except _NotMetrics as error:
        record = make_record(INVALID, error=str(error), source_sha256=source)
    except (Exception, SystemExit) as error:
        sentence = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")
        seconds = time.monotonic() - begin
        record = make_record(
            FAILED, seconds=seconds, error=sentence, traceback=traceback.format_exc(), source_sha256=source
        )
    write_record(call, record)
    return record


def _check_metric(metrics: Metrics, curve: Sequence[tuple[float, Metrics]], metric: str) -> None:
    """Raises an error where the result has no value of the metric."""
    if metric in metrics:
        return
    if any(metric in yielded for _, yielded in curve):
        raise _NoFinalMetric(f"what train yielded last, at step {curve[-1][0]:g}, has no {metric} that is a number")
    raise _NotMetrics(f"train returned no metric {metric!r} that is a number{suggest_names(metric, metrics)}")


def _collect(result: Any) -> tuple[Metrics, list[tuple[float, Metrics]]]:
    """The metrics that a function returned or yielded last, and its curve. An earlier step gives none: it would be
    compared with the last step of another run."""
    if isinstance(result, Mapping):
        return _numbers(result), []
    if not isinstance(result, Iterator):
        what = "nothing" if result is None else f"a value of type {type(result).__name__}"
        raise _NotMetrics(f"train returned {what}; {_EXPECTED}")
    last, curve = Metrics(), list[tuple[float, Metrics]]()
    while True:
        try:
            yielded = next(result)
        except StopIteration as end:
            if isinstance(end.value, Mapping):
                last = {name: value for name, value in last.items() if name not in end.value} | _numbers(end.value)
            break
        step, metrics = _split_step(yielded)
        if curve and not step > curve[-1][0]:
            raise _NotMetrics(f"train yielded step {step:g} after step {curve[-1][0]:g}; steps must rise")
        curve.append((step, metrics))
        last = metrics
    if not last and not any(metrics for _, metrics in curve):
        raise _NotMetrics(f"train yielded no metrics; {_EXPECTED}")
    return last, curve


def _split_step(yielded: Any) -> tuple[float, Metrics]:
    """The step and the metrics of a pair (step, metrics), or of metrics of which one is called step."""
    if isinstance(yielded, tuple) and len(yielded) == 2 and isinstance(yielded[1], Mapping):
        step, metrics = yielded
    elif isinstance(yielded, Mapping) and "step" in yielded:
        step, metrics = yielded["step"], {name: value for name, value in yielded.items() if name != "step"}
    else:
        raise _NotMetrics(
            f"train yielded {_shorten(yielded)}; it must yield pairs of a step and metrics, such as "
            '(100, {"valid_loss": 0.5})'
        )
    number = _number(step)
    if number is None or not math.isfinite(number):
        raise _NotMetrics(f"train yielded the step {_shorten(step)}; it must be a number")
    return number, _numbers(metrics)


def _numbers(metrics: Mapping[Any, Any]) -> Metrics:
    """The metrics that are numbers, or arrays and tensors of one number."""
    numbers = {str(name): _number(value) for name, value in metrics.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def _number(value: Any) -> float | None:
    try:
        item = value.item() if callable(getattr(value, "item", None)) else value  # of an array or a tensor
        return None if isinstance(item, str | bytes) else float(item)
    except OverflowError:  # a whole number that is too large
        return math.inf
    except (TypeError, ValueError, RuntimeError):  # torch raises RuntimeError for a tensor of several numbers
        return None


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_importable(train: TrainFunction) -> None:
    """Raises UserError for a function that another process cannot import."""
    advice = "define it with `def` at the top of a file, or leave processes at 1"
    module = getattr(train, "__module__", None)
    if module == "__main__" and not getattr(sys.modules["__main__"], "__file__", None):
        raise UserError(f"train is defined in a notebook or a session, so another process cannot import it; {advice}")
    try:
        pickle.dumps(train)
    except Exception as error:
        raise UserError(f"train cannot be sent to another process ({error}); {advice}") from None
    if multiprocessing.parent_process() is not None:  # a program without the guard, imported by a child
        raise UserError(_GUARD)


def _start(train: TrainFunction, call: PlannedCall, processes: int, metric: str) -> SpawnProcess:
    """Starts a process for one call. It has its share of the cores."""
    call.path.unlink(missing_ok=True)  # of an earlier failure
    process = multiprocessing.get_context("spawn").Process(target=_run_child, args=(train, call, metric, os.getpid()))
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads_per_run(processes))
    try:
        process.start()
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
    return process


def _run_child(train: TrainFunction, call: PlannedCall, metric: str, parent_pid: int) -> None:
    """The target of a process. Ctrl-C goes to the parent, which ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminate_with_parent(parent_pid)
    write_record(call, make_record(STARTED))
    _call(train, call, metric, hash_source(train))


def _record_of_ended(call: PlannedCall, process: SpawnProcess) -> RunRecord:
    """The record of a call whose process has ended."""
    record = read_record(call)
    if record is None:
        raise UserError(
            f"a process for arm {call.arm!r}, seed {call.seed} ended with exit code {process.exitcode} before it "
            f"called train, and its error is printed above; {_GUARD}"
        )
    if record.state != STARTED:
        return record
    error = f"its process ended with exit code {process.exitcode}, without an error of Python"
    record = make_record(FAILED, error=error)
    write_record(call, record)
    return record


def _stop(processes: Sequence[SpawnProcess]) -> None:
    """Ends processes whose runs are not finished."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
        with contextlib.suppress(ValueError):
            process.close()
