"""The process of a tracker: `python -m charladder.tracking.worker RUN TRACKER`.

It follows metrics.jsonl of the run and sends each line once. The training process holds the other end of its standard
input, and closes it at the end, after it has written `finished` if training ended by itself. Standard output has one
JSON object a line: `{"place": ...}` where the user finds the run, `{"failure": ...}` why the tracker stopped. What the
tracker's package prints goes to standard error, which is tracking.log of the run.
"""

import os
import sys
import threading
import time
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from charladder.strict_json import dumps
from charladder.tracking.metric_values import metric_values
from charladder.tracking.metrics_follower import MetricsFollower
from charladder.tracking.sent_steps import SentSteps
from charladder.tracking.tracked_run import read_tracked_run
from charladder.tracking.tracker import make_tracker

POLL_SECONDS = 0.5  # between two reads of metrics.jsonl
LAST_SECONDS = 60.0  # after the end of training, or of a killed training process; then this process ends itself
_LINES_AT_ONCE = 100  # sent before tracking.json is written
_NICENESS = 10  # training has the processor first


class TrainingEnd(threading.Thread):
    """Waits for the end of standard input. has_ended: it has ended. finished: training ended by itself.

    Some seconds after it, the process exits, so that a tracker that hangs does not outlive its run.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.has_ended, self.finished = threading.Event(), False

    def run(self) -> None:
        self.finished = sys.stdin.buffer.read().strip() == b"finished"
        self.has_ended.set()
        time.sleep(LAST_SECONDS)
        os._exit(1)


def follow_run(folder: Path, name: str, end: TrainingEnd, status: IO[str]) -> None:
    """Sends the lines of a run to a tracker, until training has ended and all lines are sent."""
    run, tracker = read_tracked_run(folder), make_tracker(name)
    sent, follower = SentSteps(folder, name), MetricsFollower(folder / "metrics.jsonl")
    print(dumps({"place": str(tracker.start(run))}), file=status, flush=True)
    while True:
        is_last = end.has_ended.is_set()  # before reading, so that what was written before the end is read
        lines = [line for line in follower.read() if sent.is_new(line)]
        for begin in range(0, len(lines), _LINES_AT_ONCE):
            try:
                for line in lines[begin : begin + _LINES_AT_ONCE]:
                    if sent.is_new(line):
                        tracker.log(metric_values(line), line["step"])
                        sent.add(line)
                tracker.flush()
            finally:
                sent.save()
        if is_last and not lines:
            break
        if not lines:
            end.has_ended.wait(POLL_SECONDS)
    tracker.finish(end.finished)


def main(arguments: list[str]) -> int:
    """Follows the run until its end; returns the exit code."""
    status = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    end = TrainingEnd()
    end.start()
    folder, name = Path(arguments[0]), arguments[1]
    try:
        # A tracker of the same run may still be finishing, if the training process was killed and resumed.
        with FileLock(folder / ".tracking.lock", timeout=LAST_SECONDS):
            follow_run(folder, name, end, status)
    except Timeout:
        print(dumps({"failure": "another process is sending the metrics of this run"}), file=status, flush=True)
        return 1
    except BaseException as error:  # packages also raise SystemExit
        sentence = " ".join(str(error).split())
        print(dumps({"failure": f"{type(error).__name__}: {sentence}"[:500]}), file=status, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without handlers and threads of the tracker's package, which may hang
