"""Losses between features or logits of two networks, or of two layers.

They take float tensors (..., D) and return a value for each position (...), in at least float32, so that masks and
counts apply to positions; `squared_distance` returns one for each example. Shapes that differ raise AuxiliaryError:
torch would broadcast them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from charladder.auxiliary._errors import AuxiliaryError


def cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - cosine similarity of the last dimension: (..., D) and (..., D) to (...), from 0 to 2.

    >>> cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    tensor([1.])
    """
    prediction, target = _comparable(prediction, target)
    return 1 - F.cosine_similarity(prediction, target, dim=-1)


def kl(prediction: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """temperature² * KL(softmax(target / temperature) || softmax(prediction / temperature)), in nats, of logits
    (..., V) (Hinton et al. 2015). For another temperature: `functools.partial(losses.kl, temperature=2.0)`."""
    prediction, target = _comparable(prediction, target)
    log_p = F.log_softmax(prediction / temperature, dim=-1)
    log_q = F.log_softmax(target / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)


def smooth_l1(prediction: Tensor, target: Tensor, beta: float = 1.0) -> Tensor:
    """Smooth L1 (Girshick 2015), averaged over the last dimension: (..., D) and (..., D) to (...)."""
    prediction, target = _comparable(prediction, target)
    return F.smooth_l1_loss(prediction, target, beta=beta, reduction="none").mean(-1)


def squared_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """The squared Euclidean distance of each example, over all its features: (B, ...) and (B, ...) to (B,).

    >>> squared_distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    tensor([5.])
    """
    prediction, target = _comparable(prediction, target)
    return (prediction - target).square().flatten(1).sum(-1)


def _comparable(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both in at least float32."""
    if prediction.shape != target.shape:
        raise AuxiliaryError(
            f"the shapes {tuple(prediction.shape)} and {tuple(target.shape)} differ; give both the same shape, for "
            "features with a projector as head"
        )
    return _wide(prediction), _wide(target)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
