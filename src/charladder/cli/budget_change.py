"""The effect of a new budget on the progress of a resumed run, and so on its schedules."""

from charladder.auxiliary import term_name
from charladder.objective import term_weights
from charladder.training import Trainer, TrainingConfig
from charladder.training.schedule import compute_progress, learning_rate_factor, step_share

_MIN_RELATIVE_CHANGE = 0.01  # of the learning rate; smaller changes are not reported


def describe_budget_change(trainer: Trainer, old_settings: TrainingConfig) -> str | None:
    """One sentence about the learning rate and the active losses of the next step, with the old settings and now.

    None if nothing changes or no step has been trained.
    """
    counters = trainer.counters
    if not counters.step:
        return None
    was, now = compute_progress(old_settings, counters), trainer.progress
    characters, seconds = round(counters.characters / counters.step), counters.seconds / counters.step
    old, new = (
        settings.learning_rate * learning_rate_factor(settings, at, step_share(settings, counters, characters, seconds))
        for settings, at in ((old_settings, was), (trainer.settings, now))
    )
    changes = []
    if abs(new - old) > _MIN_RELATIVE_CHANGE * max(new, old):
        changes.append(f"the learning rate goes from {old:.3g} to {new:.3g}")
    changes += [
        f"{_format_names(names)} {'contribute' if len(names) > 1 else 'contributes'} to the loss {how}"
        for how, names in (("again", _active_terms(trainer, now) - _active_terms(trainer, was)),
                           ("no more", _active_terms(trainer, was) - _active_terms(trainer, now)))
        if names
    ]  # fmt: skip
    if not changes:
        return None
    return f"of the new budget {now:.1%} is spent, and of the old one {was:.1%} was: {', and '.join(changes)}"


def _active_terms(trainer: Trainer, progress: float) -> set[str]:
    """Names of the losses with a positive weight at a progress."""
    layers = trainer.network.settings.layers
    weights = term_weights(trainer.objective.settings, layers, progress, trainer.counters.step)
    return {term_name(layer, k, layers) for (layer, k), weight in weights.items() if weight > 0}


def _format_names(names: set[str]) -> str:
    """The names if there are at most two, else the first and how many more."""
    shown = sorted(names)
    return " and ".join(shown) if len(shown) < 3 else f"{shown[0]} and {len(shown) - 1} more"
