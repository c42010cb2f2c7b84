"""The default shape of a network and its batch, which depends on the budget and the length of the text."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from charladder.errors import UserError
from charladder.training.devices import choose_device, choose_precision

MIN_EPOCHS = 4  # a network does not memorise a text that it reads fewer times
SMALL_TEXT_CHARACTERS = 20_000  # networks memorised shorter training texts (docs/decisions/0062)
_MIN_CHARACTERS_PER_MINUTE = 60 * 5_000  # a low estimate of the characters read in a minute
FREQUENT_VALIDATIONS = 20  # validations of a run whose best weights may not be the last ones


@dataclass(frozen=True)
class Shape:
    """context: in characters. batch: windows of a step. validations: number of validations in the run."""

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

# The largest budget in minutes for each shape, on two cores in float32; _relative_speed converts it to this machine.
# The first limit is from the trials in docs/decisions/0028 on such a machine, the next two from those on a machine with
# bfloat16, and the others follow the rule of thumb that twice the size needs four times the time.
_SHAPES_BY_MINUTES = (
    (5.0, Shape(4, 128, 128, 8)),
    (10.0, Shape(4, 192, 256, 8)),
    (40.0, Shape(4, 192, 256, 16)),
    (160.0, Shape(8, 192, 256, 16)),
    (640.0, Shape(12, 256, 256, 16)),
    (math.inf, Shape(16, 384, 512, 16)),
)
SHAPE_WITHOUT_MINUTES = Shape(6, 128, 128, 8)  # for budgets in steps or characters
SHAPE_FOR_SMALL_TEXTS = Shape(1, 64, 32, 8, dropout=0.5, validations=FREQUENT_VALIDATIONS)


def choose_shape(fields: dict[str, Any]) -> Shape:
    """The shape for recipe fields, of which it reads the budget, the length of the text and the device."""
    shape = SHAPE_FOR_SMALL_TEXTS if is_small_text(fields) else _shape_by_budget(fields)
    return replace(shape, validations=FREQUENT_VALIDATIONS) if fields.get("training.patience", 0) > 0 else shape


def _shape_by_budget(fields: dict[str, Any]) -> Shape:
    """The shape for a text that is not small, by the budget and the device."""
    minutes = fields.get("training.minutes", 0.0)
    shapes = [shape for limit, shape in _SHAPES_BY_MINUTES if minutes * _relative_speed(fields) <= limit]
    return shapes[0] if minutes > 0 and shapes else SHAPE_WITHOUT_MINUTES


def is_small_text(fields: dict[str, Any]) -> bool:
    """Whether the text has fewer than SMALL_TEXT_CHARACTERS training characters, and the budget reads them at least
    MIN_EPOCHS times. False if the length of the text (text.characters) is not known yet.
    """
    characters = fields.get("text.characters", 0)
    shares = [fields.get(f"text.{part}", 0.05) for part in ("valid", "test")]
    training_characters = characters - sum(share * characters if share < 1 else share for share in shares)
    is_short = 0 < training_characters < SMALL_TEXT_CHARACTERS
    return is_short and _characters_read(fields) >= MIN_EPOCHS * training_characters


def _characters_read(fields: dict[str, Any]) -> float:
    """The characters that the budget reads with the shape for small texts; a low estimate for a budget in minutes."""
    batch = fields.get("training.batch", SHAPE_FOR_SMALL_TEXTS.batch)
    by_steps = fields.get("training.steps", 0) * batch * fields.get("model.context", SHAPE_FOR_SMALL_TEXTS.context)
    by_minutes = fields.get("training.minutes", 0.0) * _MIN_CHARACTERS_PER_MINUTE
    return max(by_steps, fields.get("training.characters", 0), by_minutes)


def _relative_speed(fields: dict[str, Any]) -> float:
    """The estimated speed of this machine relative to two cores in float32: 4 with matrix products in bfloat16
    (docs/decisions/0028), 100 with a GPU (a guess, not measured)."""
    try:
        device = choose_device(fields.get("training.device", "auto"))
    except UserError:  # the trainer raises it again, for the user
        return 1.0
    if device.type != "cpu":
        return 100.0
    is_bfloat16 = choose_precision(fields.get("training.precision", "auto"), device) == torch.bfloat16
    return 4.0 if is_bfloat16 else 1.0
