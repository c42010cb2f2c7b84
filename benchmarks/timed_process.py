"""Processes on two cores whose wall-clock time is measured from start to end, and which are killed at a limit."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from charladder.errors import UserError

CORES = 2
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Finished:
    """seconds: from before the process was started until it had ended. output: its standard output."""

    seconds: float
    output: str


@contextlib.contextmanager
def two_cores(required: bool = True) -> Iterator[None]:
    """This thread and the processes that it starts run on two logical processors, the first two that it may use.

    Raises UserError if there is one only and `required`. Without sched_setaffinity (not Linux) nothing is restricted,
    and processes are only told to use two threads.
    """
    if sys.platform != "linux":
        yield
        return
    allowed = os.sched_getaffinity(0)
    if len(allowed) < CORES and required:
        raise UserError("this process may use one core, and the task has two; give it two")
    os.sched_setaffinity(0, sorted(allowed)[:CORES])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def run_timed(command: Sequence[str], folder: Path, limit: float, name: str) -> Finished:
    """Runs a command with two threads and without a GPU, and with its process group kills it at `limit` seconds.

    On Linux it is also killed when this process ends, so that it does not disturb what is measured next. Its output is
    written to files in `folder`. name: of the process, for errors. Raises UserError if it cannot be
    started, fails, or has not ended in time.
    """
    threads = {f"{library}_NUM_THREADS": str(CORES) for library in ("OMP", "MKL", "OPENBLAS")}
    environment = {**os.environ, **threads, "CUDA_VISIBLE_DEVICES": ""}
    output, errors = folder / "stdout", folder / "stderr"
    with output.open("wb") as out, errors.open("wb") as err:
        began = time.perf_counter()
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, start_new_session=True,
                preexec_fn=_end_with_parent,
            )  # fmt: skip
        except OSError as error:
            raise UserError(f"{name} cannot be started: {command[0]}: {error.strerror}") from None
        try:
            code = process.wait(limit)
            seconds = time.perf_counter() - began
        except subprocess.TimeoutExpired:
            raise UserError(
                f"{name} had not ended after {limit:g} s, which is its limit; nothing is recorded"
            ) from None
        finally:
            _kill_group(process)
    if code:
        lines = errors.read_text(errors="replace").strip().splitlines() or ["it printed no error"]
        raise UserError(f"{name} failed with exit code {code}: {lines[-1]}")
    return Finished(seconds, output.read_text(errors="replace"))


def _end_with_parent() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kills what is left of the process and of those that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
