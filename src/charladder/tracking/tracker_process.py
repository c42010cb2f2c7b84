"""The training process's side of a tracker: starts its process, looks whether it still runs, and ends it."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

FINISH_SECONDS = 30.0  # for a tracker to send the rest after training, before it is killed
_KILL_SECONDS = 5.0  # for a killed process to end


class TrackerProcess:
    """A process that sends the metrics of a run to a tracker. Only `close` waits, and failures are returned, not
    raised.

    finish_seconds: how long `close` waits. log: the file with what the tracker's package printed. place: where the user
    finds the run, as soon as the tracker has reported it.
    """

    def __init__(self, folder: Path, tracker: str, finish_seconds: float = FINISH_SECONDS) -> None:
        self.tracker, self.finish_seconds = tracker, finish_seconds
        self.log = folder / "tracking.log"
        self.place: str | None = None
        self._failure: str | None = None
        self._reports = b""
        self._process: subprocess.Popen[bytes] | None = None
        command = [sys.executable, "-P", "-m", "charladder.tracking.worker", str(folder), tracker]
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    start_new_session=True,  # so that the terminal does not send it Ctrl-C
                )  # fmt: skip
        except (OSError, ValueError) as error:
            self._failure = f"its process cannot be started: {error}"
        if self._process is not None and self._process.stdout is not None and os.name == "posix":
            os.set_blocking(self._process.stdout.fileno(), False)

    def take_failure(self) -> str | None:
        """Why the tracker has stopped, once; None while it runs and after that. Updates `place`."""
        process = self._process
        if process is not None:
            has_ended = process.poll() is not None
            if has_ended or (self.place is None and os.name == "posix"):
                self._read_reports(process)
            if has_ended:
                self._process = None
                self._close_pipes(process)
                if process.returncode and self._failure is None:
                    self._failure = self._report("failure") or f"its process ended with code {process.returncode}"
        failure, self._failure = self._failure, None
        return failure

    def request_end(self, finished: bool) -> None:
        """Tells the tracker that training has ended. finished: by itself."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError, ValueError):  # ValueError: it is closed already
                self._process.stdin.write(b"finished\n" if finished else b"")
            with suppress(OSError, ValueError):
                self._process.stdin.close()

    def is_done(self, seconds: float) -> bool:
        """Whether the process has ended within some seconds."""
        try:
            return self._process is None or self._process.wait(seconds) is not None
        except subprocess.TimeoutExpired:
            return False

    def close(self, finished: bool) -> str | None:
        """Ends the tracker. Returns why it stopped or was killed; None if it has sent everything."""
        self.request_end(finished)
        ended = False
        try:
            ended = self.is_done(self.finish_seconds)
        finally:  # also for Ctrl-C while it waits
            if not ended and self._process is not None:
                self._kill(self._process)
                self._failure = f"it did not end within {self.finish_seconds:g} seconds after training"
        return self.take_failure()

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kills the process, and those that it started where the system has groups of processes."""
        with suppress(OSError):
            if os.name == "posix":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        self.is_done(_KILL_SECONDS)

    def _close_pipes(self, process: subprocess.Popen[bytes]) -> None:
        """Closes the pipes of the ended process."""
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError, ValueError):
                if pipe is not None:
                    pipe.close()

    def _read_reports(self, process: subprocess.Popen[bytes]) -> None:
        """Reads what the process has reported so far."""
        with suppress(OSError, ValueError):
            if process.stdout is not None:
                self._reports += process.stdout.read() or b""
        self.place = self._report("place")

    def _report(self, name: str) -> str | None:
        """The value of `name` in the reports; None if it was not reported."""
        for line in self._reports.splitlines():
            with suppress(ValueError):
                report: Any = json.loads(line)
                if isinstance(report, dict) and name in report:
                    return str(report[name])
        return None
