"""What a changed budget does to a run that goes on: its progress jumps, and what depends on progress jumps with it."""

from charladder.auxiliary import term_name
from charladder.objective import term_weights
from charladder.training import Trainer, TrainingConfig
from charladder.training.schedule import learning_rate_factor, progress, step_share

_MIN_RELATIVE_CHANGE = 0.01  # learning rates that differ by less than this share are not worth a word


def describe_budget_change(trainer: Trainer, old_settings: TrainingConfig) -> str | None:
    """One sentence about the next step: what its learning rate and losses would have been with the budget `before`,
    and what they are now. None where nothing changes, or nothing has been trained yet."""
    clock = trainer.clock
    if not clock.step:
        return None
    was, now = progress(old_settings, clock), trainer.progress
    characters, seconds = round(clock.characters / clock.step), clock.seconds / clock.step
    old, new = (
        settings.learning_rate * learning_rate_factor(settings, at, step_share(settings, clock, characters, seconds))
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
    """Names of the losses that contribute at a progress."""
    layers = trainer.network.settings.layers
    weights = term_weights(trainer.objective.settings, layers, progress, trainer.clock.step)
    return {term_name(layer, k, layers) for (layer, k), weight in weights.items() if weight > 0}


def _format_names(names: set[str]) -> str:
    """Their names where they are few."""
    shown = sorted(names)
    return " and ".join(shown) if len(shown) < 3 else f"{shown[0]} and {len(shown) - 1} more"
