"""Losses of labels as Hugging Face's models and collators have them: -100 where there is nothing to predict."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from charladder.auxiliary._counts import IGNORE_INDEX, is_integer
from charladder.auxiliary._term import Term


def token_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each label in nats, in at least float32: logits (..., V) and labels (...) to (...).

    It is 0 where the label is -100.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    return losses.view_as(labels)


def next_tokens(batch: Mapping[str, Any]) -> Tensor:
    """The labels (B, T) of a batch of a causal language model, shifted so that position t has token t + 1.

    The last position has -100. For `Term(target=next_tokens)`. A batch with `shift_labels` is shifted already.
    """
    if "shift_labels" in batch:
        return batch["shift_labels"]
    return F.pad(batch["labels"][..., 1:], (0, 1), value=IGNORE_INDEX)


def model_loss(target: Any = "labels", **fields: Any) -> Term:
    """A term of the loss that the model itself returns: `Objective(main=model_loss())`.

    The model's loss must be the mean over the labels that are not -100. Most models of transformers return it.
    target: as in Term; what is counted. For a causal language model: `model_loss(target=next_tokens)`. fields: others
    of Term.
    """
    return Term(_as_returned, select="loss", target=target, count=_count_labels, **fields)


def _as_returned(loss: Tensor, labels: Any) -> Tensor:
    return loss


def _count_labels(labels: Tensor) -> Tensor | int:
    return (labels != IGNORE_INDEX).sum() if is_integer(labels) else labels.numel()
