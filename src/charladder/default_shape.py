"""The shape of a network and of its batch where a recipe leaves them open: by the budget and the length of the text."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from charladder.errors import UserError
from charladder.training.devices import choose_device, choose_precision

MIN_EPOCHS = 4  # a text that is read fewer times than this is not one that a network learns by heart
SMALL_TEXT_CHARACTERS = 20_000  # training characters below which that happened in the trials (docs/decisions/0062)
_MIN_CHARACTERS_PER_MINUTE = 60 * 5_000  # characters that a minute reads at least, an estimate
FREQUENT_VALIDATIONS = 20  # validations of a run that may be best before its end


@dataclass(frozen=True)
class Shape:
    """context: characters. batch: windows a step. validations: how many the run has."""

    layers: int
    width: int
    context: int
    batch: int
    dropout: float = 0.0
    validations: int = 4


SHAPE_FIELDS = {
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
_SHAPES_BY_MINUTES = (
    (5.0, Shape(4, 128, 128, 8)),
    (10.0, Shape(4, 192, 256, 8)),
    (40.0, Shape(4, 192, 256, 16)),
    (160.0, Shape(8, 192, 256, 16)),
    (640.0, Shape(12, 256, 256, 16)),
    (math.inf, Shape(16, 384, 512, 16)),
)
SHAPE_WITHOUT_MINUTES = Shape(6, 128, 128, 8)  # budgets in steps or characters say nothing of time
SHAPE_FOR_SMALL_TEXTS = Shape(1, 64, 32, 8, dropout=0.5, validations=FREQUENT_VALIDATIONS)


def choose_shape(fields: dict[str, Any]) -> Shape:
    """The shape for the recipe fields `raw`, of which only the budget, the text's length and the device are read."""
    shape = SHAPE_FOR_SMALL_TEXTS if is_small_text(fields) else _shape_by_budget(fields)
    return replace(shape, validations=FREQUENT_VALIDATIONS) if fields.get("training.patience", 0) > 0 else shape


def _shape_by_budget(fields: dict[str, Any]) -> Shape:
    """The shape for the budget alone."""
    minutes = fields.get("training.minutes", 0.0)
    fitting = [shape for limit, shape in _SHAPES_BY_MINUTES if minutes * _relative_speed(fields) <= limit]
    return fitting[0] if minutes > 0 and fitting else SHAPE_WITHOUT_MINUTES


def is_small_text(fields: dict[str, Any]) -> bool:
    """Whether the text has fewer than 20,000 training characters and the budget reads them four times or more.

    False where the text's length (text.characters) is not known yet.
    """
    characters = fields.get("text.characters", 0)
    shares = [fields.get(f"text.{part}", 0.05) for part in ("valid", "test")]
    trained = characters - sum(share * characters if share < 1 else share for share in shares)
    return 0 < trained < SMALL_TEXT_CHARACTERS and _characters_read(fields) >= MIN_EPOCHS * trained


def _characters_read(fields: dict[str, Any]) -> float:
    """How many characters the budget trains on with the shape for small texts; of minutes a low estimate."""
    batch = fields.get("training.batch", SHAPE_FOR_SMALL_TEXTS.batch)
    by_steps = fields.get("training.steps", 0) * batch * fields.get("model.context", SHAPE_FOR_SMALL_TEXTS.context)
    by_minutes = fields.get("training.minutes", 0.0) * _MIN_CHARACTERS_PER_MINUTE
    return max(by_steps, fields.get("training.characters", 0), by_minutes)


def _relative_speed(fields: dict[str, Any]) -> float:
    """How much more a minute does here than on two cores in float32, roughly: with products in bfloat16 four times as
    much (docs/decisions/0028), on a GPU a hundred times (a guess, not measured)."""
    try:
        device = choose_device(fields.get("training.device", "auto"))
    except UserError:  # training raises it, with the sentence for the user
        return 1.0
    if device.type != "cpu":
        return 100.0
    half = choose_precision(fields.get("training.precision", "auto"), device) == torch.bfloat16
    return 4.0 if half else 1.0
