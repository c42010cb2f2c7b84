"""Losses of the router of a mixture of experts.

Letters of shapes: N tokens of a batch, E experts. A model's router logits are one tensor (N, E), or one for each of L
layers. The mask of tokens has N elements in any shape; those that are 0 are padding.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from charladder.auxiliary import distributed
from charladder.auxiliary._counts import is_readable
from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._term import Term
from charladder.auxiliary.presets._arguments import checked


@checked
def load_balance(top_k: int = 1, *, mask: Any = None, over_ranks: bool = False, **fields: Any) -> Term:
    """E * sum over experts e of f_e P_e, with weight 0.01: 1 * top_k if all experts get as many tokens.

    Fedus et al. 2022, "Switch Transformers", equations 4 to 6. f_e is the number of tokens that chose expert e among
    their `top_k`, over the number of tokens; P_e is the mean probability of e. Only P_e has a gradient. Over several
    layers both are means over the tokens of all layers, as in transformers (Mixtral, OLMoE). Switch adds up the losses
    of the layers: tap each router, with a pattern.
    Found: without it, few experts get most of the tokens; with a weight of 0.01 the load is even, and the main loss is
    not harmed (Fedus et al. 2022). An f_e over more tokens than a micro-batch has lets experts specialise by domain
    (Qiu et al. 2025, "Demons in the Detail").

    mask: which tokens count, a part of `targets`, as in Term; such as an attention mask. fields: of the Term; without
    `tap` it reads `router_logits` of the model's output.
    The loss is a product of two means. Over micro-batches it is the mean of their losses, weighted by their tokens, and
    each f_e is that of a micro-batch; no single pass can know the f_e of micro-batches that are still to come. Over
    processes the same holds, unless `over_ranks`: then f_e is that of all processes, and the loss and its gradient
    are those of one process with all the tokens. All processes must then measure the term in the same calls.

    >>> term = load_balance(2, mask="attention_mask")
    >>> term.select, term.weight
    ('router_logits', 0.01)
    """
    return _router_term(partial(_load_balance, top_k=top_k, over_ranks=over_ranks), mask, 0.01, fields)


@checked
def router_z(*, mask: Any = None, **fields: Any) -> Term:
    """The mean over tokens of (log sum over experts of exp(logit))², with weight 0.001.

    Zoph et al. 2022, "ST-MoE: Designing Stable and Transferable Sparse Expert Models", equation 5. Over several layers
    it is their mean.
    Found: large models that diverged without it train stably, with no harm to quality (section 3 there).
    mask, fields: as in `load_balance`. It is a mean over tokens, so micro-batches and processes add up exactly.
    """
    return _router_term(_router_z, mask, 0.001, fields)


def _router_term(loss: Any, mask: Any, weight: float, fields: dict[str, Any]) -> Term:
    """A term whose loss takes router logits, and the mask of tokens if there is one."""
    defaults: dict[str, Any] = {"target": mask, "weight": weight}
    if mask is not None:
        defaults["count"] = _count_tokens
    if "tap" not in fields:
        defaults["select"] = "router_logits"
    return Term(loss, **(defaults | fields))


def _load_balance(
    router_logits: Tensor | Sequence[Tensor], mask: Tensor | None = None, *, top_k: int, over_ranks: bool
) -> tuple[Tensor, Tensor]:
    logits = _layers(router_logits)
    kept_N = _kept(logits[0], mask)  # sums over it are no matrix products, which autocast would compute in bfloat16
    chosen_E, probability_E = (logits[0].new_zeros(logits[0].shape[-1], dtype=kept_N.dtype) for _ in range(2))
    for logits_NE in logits:
        p_NE = logits_NE.to(kept_N).softmax(-1)
        probability_E = probability_E + (kept_N[:, None] * p_NE).sum(0)
        chosen_NE = torch.zeros_like(p_NE).scatter(-1, p_NE.topk(top_k, dim=-1).indices, 1.0)
        chosen_E = chosen_E + (kept_N[:, None] * chosen_NE).sum(0)
    tokens = kept_N.sum()
    chosen_E, all_tokens = _over_ranks(chosen_E.detach(), tokens) if over_ranks else (chosen_E.detach(), tokens)
    fraction_E = chosen_E / (len(logits) * torch.where(all_tokens == 0, 1, all_tokens))
    return len(fraction_E) * (fraction_E * probability_E).sum() / len(logits), tokens


def _over_ranks(chosen_E: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The sums over all processes."""
    if distributed.world_size() == 1:
        return chosen_E, tokens
    joint = torch.cat([chosen_E, tokens.detach()[None]])
    dist.all_reduce(joint)
    return joint[:-1], joint[-1]


def _router_z(router_logits: Tensor | Sequence[Tensor], mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    logits = _layers(router_logits)
    kept_N = _kept(logits[0], mask)
    total = sum((kept_N * logits_NE.to(kept_N).logsumexp(-1).square()).sum() for logits_NE in logits)
    return torch.as_tensor(total / len(logits)), kept_N.sum()


def _layers(router_logits: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """The router logits of each layer, (N, E)."""
    layers = [router_logits] if isinstance(router_logits, Tensor) else list(router_logits)
    return [logits.flatten(0, -2) for logits in layers]


def _kept(logits_NE: Tensor, mask: Tensor | None) -> Tensor:
    """1 for the tokens that count, 0 for padding; (N), in at least float32."""
    dtype = torch.promote_types(logits_NE.dtype, torch.float32)
    if mask is None:
        return logits_NE.new_ones(len(logits_NE), dtype=dtype)
    if mask.numel() != len(logits_NE):
        raise AuxiliaryError(f"the mask has {mask.numel()} tokens, and the router logits have {len(logits_NE)}")
    if is_readable(mask) and bool((mask < 0).any()):
        raise AuxiliaryError("the mask of tokens has numbers below 0; give 1 for tokens that count, and 0 for padding")
    return mask.flatten().to(logits_NE.device, dtype)


def _count_tokens(mask: Tensor) -> Tensor:
    return mask.sum()
