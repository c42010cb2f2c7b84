"""How training ended, for the summary after it."""

from dataclasses import dataclass

from charladder.evaluation import Score


@dataclass(frozen=True)
class TrainingOutcome:
    """How training ended.

    interrupted: before its end. ended_early: by training.patience. stop_requested: a signal arrived, perhaps after the
    last step. last_validation: the score of the last validation.
    """

    interrupted: bool
    ended_early: bool
    stop_requested: bool
    last_validation: Score | None
