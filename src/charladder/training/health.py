"""Detection of loss spikes, and the limit on skipped steps."""

import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

LOSS_WINDOW = 64  # losses that a new loss is compared with
MIN_LOSSES = 32  # losses before the first comparison
RECENT_STEPS = 100  # steps over which skipped ones are counted
NATS_PER_BIT = math.log(2)
_STD_PER_MEDIAN_DEVIATION = 1.4826  # a normal distribution's standard deviation over its median deviation


class TrainingDiverged(Exception):
    """Training cannot continue: too many steps had a loss or gradient that is not finite or a loss spike, or weights
    are not finite. The message names the step and the term.
    """


@dataclass
class Health:
    """losses: the latest main losses, in nats. skipped: the numbers of recently skipped steps."""

    losses: list[float] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)

    def find_spike(self, loss: float, spike: float) -> str | None:
        """The reason to skip a step whose main loss, in nats, is far above the latest ones; None if it is not. A spike
        is added to the latest losses too, so harder text is a spike only once."""
        previous, self.losses = self.losses, [*self.losses, loss][-LOSS_WINDOW:]
        if spike and len(previous) >= MIN_LOSSES:
            median, highest = statistics.median(previous), max(previous)
            std = _STD_PER_MEDIAN_DEVIATION * statistics.median(abs(value - median) for value in previous)
            if loss > highest + max(NATS_PER_BIT, spike * std):
                bits, limit = loss / NATS_PER_BIT, highest / NATS_PER_BIT
                return f"the loss rose to {bits:.2f} bits, and the last {len(previous)} losses were at most {limit:.2f}"
        return None

    def record_skip(self, step: int, reason: str, max_skips: int) -> None:
        """Records a skipped step. Raises TrainingDiverged for more than `max_skips` in the last RECENT_STEPS steps."""
        self.skipped = [skipped for skipped in self.skipped if skipped > step - RECENT_STEPS] + [step]
        if len(self.skipped) > max_skips:
            skipped_before = f", and {max_skips} of the {RECENT_STEPS} steps before were skipped" if max_skips else ""
            raise TrainingDiverged(f"step {step}: {reason}{skipped_before}")

    def state(self) -> dict[str, Any]:
        return asdict(self)


def restore_health(state: Any) -> Health:
    """Health from the state in a checkpoint; new if `state` is None. Raises ValueError for an invalid state."""
    if state is None:
        return Health()
    losses, skipped = state["losses"], state["skipped"]
    if not (
        isinstance(losses, list)
        and len(losses) <= LOSS_WINDOW
        and all(isinstance(loss, float) and math.isfinite(loss) for loss in losses)
        and isinstance(skipped, list)
        and len(skipped) <= RECENT_STEPS
        and all(type(step) is int for step in skipped)
    ):
        raise ValueError("the state of the health of a run is invalid")
    return Health(list(losses), list(skipped))
