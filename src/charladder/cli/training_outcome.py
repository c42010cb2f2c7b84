"""How training ended, for what is done after it."""

from dataclasses import dataclass

from charladder.evaluation import Score


@dataclass(frozen=True)
class TrainingOutcome:
    """How training ended. interrupted: before its end. early: training.patience was used up. asked: a request to end
    came in, perhaps after the last step. validated: the last validation."""

    interrupted: bool
    ended_early: bool
    stop_requested: bool
    last_validation: Score | None
