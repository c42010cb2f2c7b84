"""The health of a run: steps whose loss or gradient is not finite, or whose loss leaps, are left out, a few of them."""

import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

WINDOW, BEFORE = 64, 32  # losses that are remembered, and how many there must be before one can leap
RECENT_STEPS = 100  # steps over which left-out ones are counted
ONE_BIT = math.log(2)
DEVIATION = 1.4826  # a normal distribution's standard deviation over its median deviation


class TrainingDiverged(Exception):
    """A run that cannot go on: losses, gradients or weights are not finite, or losses leap again and again.

    The message names the step and the term.
    """


@dataclass
class Health:
    """What is remembered: the latest main losses, in nats, and the steps that were left out lately."""

    losses: list[float] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)

    def leap(self, loss: float, spike: float) -> str | None:
        """What is wrong with a main loss, in nats, that is far above all the latest ones. It is remembered too: where
        some of a text is harder than the rest, or all that follows, it is no leap for long."""
        before, self.losses = self.losses, [*self.losses, loss][-WINDOW:]
        if spike and len(before) >= BEFORE:
            middle, highest = statistics.median(before), max(before)
            spread = DEVIATION * statistics.median(abs(one - middle) for one in before)
            if loss > highest + max(ONE_BIT, spike * spread):
                return f"the loss leapt to {loss / ONE_BIT:.2f} bits, and was at most {highest / ONE_BIT:.2f} lately"
        return None

    def skip(self, step: int, reason: str, most: int) -> None:
        """Notes that a step is left out. Raises NotFinite where that makes more than `most` of the last hundred."""
        self.skipped = [one for one in self.skipped if one > step - RECENT_STEPS] + [step]
        if len(self.skipped) > most:
            before = f", and {most} of the {RECENT_STEPS} steps before were left out" if most else ""
            raise TrainingDiverged(f"step {step}: {reason}{before}")

    def state(self) -> dict[str, Any]:
        return asdict(self)


def restore_health(state: Any) -> Health:
    """From a checkpoint; healthy where it does not say. Raises ValueError for what no run writes."""
    if state is None:
        return Health()
    losses, skipped = state["losses"], state["skipped"]
    if not (
        isinstance(losses, list)
        and len(losses) <= WINDOW
        and all(isinstance(one, float) and math.isfinite(one) for one in losses)
        and isinstance(skipped, list)
        and len(skipped) <= RECENT_STEPS
        and all(type(one) is int for one in skipped)
    ):
        raise ValueError("the health of a run is not what a run writes")
    return Health(list(losses), list(skipped))
