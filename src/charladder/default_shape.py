"""The shape of a network and of its batch where a recipe leaves them open: by the budget and the length of the text."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from charladder.errors import UserError
from charladder.training.devices import choose_device, choose_precision

PASSES = 4  # a text that is read fewer times than this is not one that a network learns by heart
SMALL = 20_000  # training characters below which that happened in the trials (docs/decisions/0062)
PER_MINUTE = 60 * 5_000  # characters that a minute reads at least, an estimate
FREQUENT = 20  # validations of a run that may be best before its end


@dataclass(frozen=True)
class Shape:
    """context: characters. batch: windows a step. validations: how many the run has."""

    layers: int
    width: int
    context: int
    batch: int
    dropout: float = 0.0
    validations: int = 4


FIELDS = {
    "layers": "model.layers",
    "width": "model.width",
    "context": "model.context",
    "batch": "training.batch",
    "dropout": "model.dropout",
    "validations": "training.validations",
}

# Minutes up to which a shape is chosen where none is set, of two cores in float32, and as many fewer as `pace` says.
# The first by the trials in docs/decisions/0028 on such a machine, the next two by those on one with bfloat16; beyond,
# by the rule of thumb that twice the size wants four times the time.
BY_MINUTES = (
    (5.0, Shape(4, 128, 128, 8)),
    (10.0, Shape(4, 192, 256, 8)),
    (40.0, Shape(4, 192, 256, 16)),
    (160.0, Shape(8, 192, 256, 16)),
    (640.0, Shape(12, 256, 256, 16)),
    (math.inf, Shape(16, 384, 512, 16)),
)
OTHERWISE = Shape(6, 128, 128, 8)  # budgets in steps or characters say nothing of time
OF_SMALL_TEXTS = Shape(1, 64, 32, 8, dropout=0.5, validations=FREQUENT)


def choose_shape(raw: dict[str, Any]) -> Shape:
    """The shape for the recipe fields `raw`, of which only the budget, the text's length and the device are read."""
    shape = OF_SMALL_TEXTS if is_small(raw) else shape_by_budget(raw)
    return replace(shape, validations=FREQUENT) if raw.get("training.patience", 0) > 0 else shape


def shape_by_budget(raw: dict[str, Any]) -> Shape:
    """The shape for the budget alone."""
    minutes = raw.get("training.minutes", 0.0)
    fitting = [shape for limit, shape in BY_MINUTES if minutes * pace(raw) <= limit]
    return fitting[0] if minutes > 0 and fitting else OTHERWISE


def is_small(raw: dict[str, Any]) -> bool:
    """Whether the text has fewer than 20,000 training characters and the budget reads them four times or more.

    False where the text's length (text.characters) is not known yet.
    """
    characters = raw.get("text.characters", 0)
    shares = [raw.get(f"text.{part}", 0.05) for part in ("valid", "test")]
    trained = characters - sum(share * characters if share < 1 else share for share in shares)
    return 0 < trained < SMALL and characters_read(raw) >= PASSES * trained


def characters_read(raw: dict[str, Any]) -> float:
    """How many characters the budget trains on with the shape for small texts; of minutes a low estimate."""
    batch = raw.get("training.batch", OF_SMALL_TEXTS.batch)
    by_steps = raw.get("training.steps", 0) * batch * raw.get("model.context", OF_SMALL_TEXTS.context)
    by_minutes = raw.get("training.minutes", 0.0) * PER_MINUTE
    return max(by_steps, raw.get("training.characters", 0), by_minutes)


def pace(raw: dict[str, Any]) -> float:
    """How much more a minute does here than on two cores in float32, roughly: with products in bfloat16 four times as
    much (docs/decisions/0028), on a GPU a hundred times (a guess, not measured)."""
    try:
        device = choose_device(raw.get("training.device", "auto"))
    except UserError:  # training raises it, with the sentence for the user
        return 1.0
    if device.type != "cpu":
        return 100.0
    half = choose_precision(raw.get("training.precision", "auto"), device) == torch.bfloat16
    return 4.0 if half else 1.0
