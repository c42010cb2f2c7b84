"""Losses between features or logits of two networks, or of two layers. Each returns a value for each position.

They take float tensors (..., D) and return (...), in at least float32, so that masks and counts apply to positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - cosine similarity of the last dimension: (..., D) and (..., D) to (...), from 0 to 2.

    >>> cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    tensor([1.])
    """
    return 1 - F.cosine_similarity(_wide(prediction), _wide(target), dim=-1)


def kl(prediction: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """temperature² * KL(softmax(target / temperature) || softmax(prediction / temperature)), in nats, of logits
    (..., V) (Hinton et al. 2015). For another temperature: `functools.partial(losses.kl, temperature=2.0)`."""
    log_p = F.log_softmax(_wide(prediction) / temperature, dim=-1)
    log_q = F.log_softmax(_wide(target) / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)


def smooth_l1(prediction: Tensor, target: Tensor, beta: float = 1.0) -> Tensor:
    """Smooth L1 (Girshick 2015), averaged over the last dimension: (..., D) and (..., D) to (...)."""
    return F.smooth_l1_loss(_wide(prediction), _wide(target), beta=beta, reduction="none").mean(-1)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
