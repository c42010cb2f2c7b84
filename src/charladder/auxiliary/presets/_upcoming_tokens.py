"""What the presets of multi-token prediction have in common: labels of upcoming tokens, and their cross-entropy.

Letters of shapes: B sequences, T positions, V tokens of the vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from charladder.auxiliary._counts import IGNORE_INDEX
from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._select import is_mapping, pick


def read_labels(preset: str, labels: str, targets: Any) -> Tensor:
    """The labels (B, T) in `targets`: their entry `labels`, or `targets` itself."""
    found = pick(preset, targets, labels, "targets", "labels") if is_mapping(targets) else targets
    if not isinstance(found, Tensor) or found.ndim != 2 or found.is_floating_point():
        raise AuxiliaryError(
            f"{preset} needs labels of shape (batch, positions), whole numbers with {IGNORE_INDEX} where there is "
            f"nothing to predict; found {getattr(found, 'shape', type(found).__name__)}"
        )
    return found


def shift(tokens_BT: Tensor, positions: int, fill: int = IGNORE_INDEX) -> Tensor:
    """At position t the token of position t + `positions`; `fill` past the end.

    >>> shift(torch.tensor([[1, 2, 3]]), 2)
    tensor([[   3, -100, -100]])
    """
    return F.pad(tokens_BT[:, positions:], (0, min(positions, tokens_BT.shape[1])), value=fill)


def upcoming(preset: str, labels: str, offset: int, shifted: bool, targets: Any) -> Tensor:
    """The labels (B, T) of the tokens `offset` positions after each position."""
    return shift(read_labels(preset, labels, targets), offset - 1 if shifted else offset)


def token_cross_entropy(logits_BTV: Tensor, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """The sum in nats, in at least float32, and the number of labels that are not -100."""
    logits = logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))
    total = F.cross_entropy(logits.flatten(0, -2), labels_BT.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
    return total, (labels_BT != IGNORE_INDEX).sum()
