"""The z-loss of a classifier's logits."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._select import first_tensor, is_mapping, part_names
from charladder.auxiliary._term import Term
from charladder.auxiliary.presets._arguments import checked


@checked
def z_loss(*, ignore_index: int = -100, **fields: Any) -> Term:
    """The mean of (log Z)² over the predictions that count, with weight 0.0001; Z is the sum of exp(logits).

    Chowdhery et al. 2022, "PaLM", section 5.
    Found: it keeps log Z near 0, and training is more stable (the same section; there is no figure for it).
    ignore_index: labels that do not count. fields: of the Term. Without `tap` and `select` it reads the main
    prediction: `logits` of the model's output, or its first part. The labels must be those of the logits' positions:
    a causal model whose labels are not shifted needs `select=` and `target=`.

    >>> z_loss(target="labels").weight
    0.0001
    """
    defaults: dict[str, Any] = {"weight": 0.0001} | ({} if "tap" in fields else {"select": _main_prediction})
    return Term(partial(_squared_log_z, ignore_index=ignore_index), **(defaults | fields))


def _squared_log_z(logits: Tensor, labels: Tensor, *, ignore_index: int) -> tuple[Tensor, Tensor]:
    if labels.shape != logits.shape[:-1]:
        raise AuxiliaryError(
            f"z_loss reads logits of shape {tuple(logits.shape)} and labels of shape {tuple(labels.shape)}; the labels "
            "must have the shape of the logits without the last dimension"
        )
    kept = labels != ignore_index
    log_z = logits.to(torch.promote_types(logits.dtype, torch.float32)).logsumexp(-1)
    return torch.where(kept, log_z.square(), 0).sum(), kept.sum()


def _main_prediction(output: Any) -> Tensor:
    if "logits" in part_names(output):
        return output["logits"] if is_mapping(output) else output.logits
    return first_tensor("main", output, "the model's output")
