"""The health of a run: steps whose loss or gradient is not finite, or whose loss leaps, are left out, a few of them."""

import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

LOSS_WINDOW = 64  # losses that a new loss is compared with
MIN_LOSSES = 32  # losses before the first comparison
RECENT_STEPS = 100  # steps over which left-out ones are counted
NATS_PER_BIT = math.log(2)
_STD_PER_MEDIAN_DEVIATION = 1.4826  # a normal distribution's standard deviation over its median deviation


class TrainingDiverged(Exception):
    """A run that cannot go on: losses, gradients or weights are not finite, or losses leap again and again.

    The message names the step and the term.
    """


@dataclass
class Health:
    """What is remembered: the latest main losses, in nats, and the steps that were left out lately."""

    losses: list[float] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)

    def find_spike(self, loss: float, spike: float) -> str | None:
        """What is wrong with a main loss, in nats, that is far above all the latest ones. It is remembered too: where
        some of a text is harder than the rest, or all that follows, it is no leap for long."""
        before, self.losses = self.losses, [*self.losses, loss][-LOSS_WINDOW:]
        if spike and len(before) >= MIN_LOSSES:
            middle, highest = statistics.median(before), max(before)
            spread = _STD_PER_MEDIAN_DEVIATION * statistics.median(abs(one - middle) for one in before)
            if loss > highest + max(NATS_PER_BIT, spike * spread):
                bits, limit = loss / NATS_PER_BIT, highest / NATS_PER_BIT
                return f"the loss leapt to {bits:.2f} bits, and was at most {limit:.2f} lately"
        return None

    def record_skip(self, step: int, reason: str, max_skips: int) -> None:
        """Records a skipped step. Raises TrainingDiverged for more than `max_skips` in the last hundred steps."""
        self.skipped = [one for one in self.skipped if one > step - RECENT_STEPS] + [step]
        if len(self.skipped) > max_skips:
            before = f", and {max_skips} of the {RECENT_STEPS} steps before were left out" if max_skips else ""
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
        and len(losses) <= LOSS_WINDOW
        and all(isinstance(one, float) and math.isfinite(one) for one in losses)
        and isinstance(skipped, list)
        and len(skipped) <= RECENT_STEPS
        and all(type(one) is int for one in skipped)
    ):
        raise ValueError("the health of a run is not what a run writes")
    return Health(list(losses), list(skipped))
