"""Trackers of runs: Weights & Biases, trackio, TensorBoard, MLflow, or a class of the user.

A tracker runs in a process of its own, which reads metrics.jsonl of the run. So it cannot change training, slow it by
more than the processor time that it takes, or stop it.
"""

from charladder.tracking.tracked_run import ARM_VARIABLE, GROUP_VARIABLE, TrackedRun
from charladder.tracking.tracker import TRACKER_NAMES, Tracker, check_tracker
from charladder.tracking.tracker_process import FINISH_SECONDS, TrackerProcess

__all__ = [
    "ARM_VARIABLE",
    "FINISH_SECONDS",
    "GROUP_VARIABLE",
    "TRACKER_NAMES",
    "TrackedRun",
    "Tracker",
    "TrackerProcess",
    "check_tracker",
]
