"""The gradient of each term, and aggregators that combine these gradients otherwise than by a weighted sum.

J is a matrix with one row for each term, the main one first: the gradients of the weighted terms for the shared
parameters. An aggregator is any function from J (m, P) to the gradient (P) that is used, such as TorchJD's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from charladder.auxiliary import distributed
from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._report import Report
from charladder.auxiliary._term import MAIN

Aggregator = Callable[[Tensor], Tensor]


def by_group(report: Report, parameters: Sequence[Tensor], groups: Mapping[str, Iterable[str]]) -> dict[str, Tensor]:
    """The gradient (P) of each group of terms for the concatenated `parameters`, over all ranks; before `backward`.

    Raises AuxiliaryError for sharded parameters, whose gradients exist only in pieces and inside FSDP2's own backward
    pass, and under reentrant checkpointing.
    """
    _check_whole(parameters)
    if _has_reentrant_checkpoint(report.total):
        raise AuxiliaryError(
            "gradients by term cannot be computed under checkpointing with use_reentrant=True, which makes gradients "
            "only in its own backward pass; checkpoint with use_reentrant=False"
        )
    return of_losses(
        {group: [report.parts[name] for name in names if name in report.parts] for group, names in groups.items()},
        parameters,
    )


def of_losses(losses: Mapping[str, Sequence[Tensor]], parameters: Sequence[Tensor]) -> dict[str, Tensor]:
    """The gradient (P) of each sum of losses for the concatenated `parameters`, over all ranks; the graph is kept.

    Raises AuxiliaryError for sharded parameters.
    """
    _check_whole(parameters)
    gradients: dict[str, Tensor] = {}
    for name, several in losses.items():
        reached = [loss for loss in several if loss.requires_grad]
        gradients[name] = _flat_gradient(sum(reached[1:], reached[0]), parameters) if reached else _zeros(parameters)
    for gradient in gradients.values():
        distributed.all_reduce_mean(gradient)
    return gradients


def _check_whole(parameters: Iterable[Tensor]) -> None:
    if any(map(distributed.is_sharded, parameters)):
        raise AuxiliaryError(
            "gradients by term cannot be computed under FSDP2, which makes gradients only in its own backward pass; "
            "use DDP or one process to compute them"
        )


def _has_reentrant_checkpoint(loss: Tensor) -> bool:
    """Whether a part of the graph is reentrant checkpointing, inside which `grad` reaches no parameter."""
    nodes: list[Any] = [loss.grad_fn]
    seen: set[Any] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if node.name().endswith("CheckpointFunctionBackward"):
            return True
        seen.add(node)
        nodes += [earlier for earlier, _ in node.next_functions]
    return False


def _flat_gradient(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    try:
        gradients = _grad(loss, parameters, retain_graph=True)
    except RuntimeError as error:
        if "donated" in str(error):
            raise AuxiliaryError(
                "a compiled model frees what a second backward pass needs; set torch._functorch.config.donated_buffer "
                "= False before it is compiled"
            ) from error
        if "second time" in str(error):
            raise AuxiliaryError("gradients by term must be computed before backward, which frees the graph") from error
        raise
    return torch.cat([_flat(g, p) for g, p in zip(gradients, parameters, strict=True)])


def _grad(loss: Tensor, parameters: Sequence[Tensor], retain_graph: bool = False) -> Sequence[Tensor | None]:
    return torch.autograd.grad(loss, parameters, retain_graph=retain_graph, allow_unused=True)


def _flat(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    """In at least float32; zeros if the loss does not depend on the parameter."""
    gradient = torch.zeros_like(parameter) if gradient is None else gradient
    return gradient.flatten().to(torch.promote_types(parameter.dtype, torch.float32))


def _zeros(parameters: Sequence[Tensor]) -> Tensor:
    return torch.cat([_flat(None, parameter) for parameter in parameters])


def backward(
    report: Report, shared: Iterable[Tensor], aggregate: Aggregator, others: Iterable[Tensor] = ()
) -> dict[str, Tensor]:
    """In place of `report.total.backward()`: adds `aggregate(J)` to the `.grad` of `shared`.

    others: parameters of some terms only, such as `objective.parameters()`; they get the gradient of the total. Costs
    a backward pass for each term. Returns the rows of J by term.
    """
    shared = [parameter for parameter in shared if parameter.requires_grad]
    names = [name for name in report.parts if name != MAIN]
    rows = by_group(report, shared, {MAIN: [MAIN]} | {name: [name] for name in names})
    combined = aggregate(torch.stack(list(rows.values()))).to(rows[MAIN])
    shared_ids = set(map(id, shared))
    rest = [p for p in others if p.requires_grad and id(p) not in shared_ids]
    # Not total.backward(inputs=rest): DDP would see a part of its parameters, and wait for the others.
    rest = rest if report.total.requires_grad else []
    gradients = _grad(report.total, rest) if rest else ()
    reached = {p: _flat(g, p) for p, g in zip(rest, gradients, strict=True) if g is not None}
    _add(combined, shared)
    if reached:
        _add(distributed.all_reduce_mean(torch.cat(list(reached.values()))), list(reached))
    return rows


def _add(gradient: Tensor, parameters: Sequence[Tensor]) -> None:
    """Adds the pieces of a flat gradient to the `.grad` of its parameters."""
    pieces = torch.split(gradient, [p.numel() for p in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        piece = piece.view_as(parameter).to(parameter.dtype)
        parameter.grad = piece.clone() if parameter.grad is None else parameter.grad + piece


def cosine_gate(J: Tensor) -> Tensor:
    """g_main + sum of max(0, cos(g_main, g_i)) g_i: Du et al. 2018, "Adapting Auxiliary Losses Using Gradient
    Similarity". A gradient that points against the main one is left out; each term has its own factor."""
    cosines = torch.nn.functional.cosine_similarity(J[:1], J[1:], dim=1)
    return J[0] + (cosines.clamp(min=0)[:, None] * J[1:]).sum(0)


class MetaBalance:
    """Each auxiliary gradient scaled towards the norm of the main one: He et al. 2022, "MetaBalance".

    g_i (r |g_main| / |g_i| + 1 - r), the norms as moving averages with `decay`. r = 1 makes the norms equal.
    """

    def __init__(self, r: float = 0.7, decay: float = 0.9) -> None:
        self.r, self.decay = r, decay
        self.norms: Tensor | None = None

    def __call__(self, J: Tensor) -> Tensor:
        norms = cast("Tensor", J.norm(dim=1))
        if self.norms is None or len(self.norms) != len(norms):  # the active terms have changed
            self.norms = norms
        average = self.decay * self.norms + (1 - self.decay) * norms
        self.norms = average
        ratio = average[0] / torch.clamp(average[1:], min=1e-12)
        return J[0] + ((self.r * ratio + 1 - self.r)[:, None] * J[1:]).sum(0)


def torchjd(name: str, **options: Any) -> Aggregator:
    """An aggregator of TorchJD by its name there: `PCGrad` (Yu et al. 2020), `UPGrad` (Quinton and Rey 2024), `CAGrad`
    (Liu et al. 2021; c=0.5) and others. PCGrad is on the scale of a sum, UPGrad and CAGrad on that of a mean.

    Raises AuxiliaryError if it, or a library that it needs, is not installed.
    """
    not_installed = f'{name} needs TorchJD: pip install "charladder[gradients]"'
    try:
        from torchjd import aggregation
    except ImportError:
        raise AuxiliaryError(not_installed) from None
    if name not in aggregation.__all__:
        raise AuxiliaryError(f"TorchJD has no aggregator {name!r}; it has {', '.join(aggregation.__all__)}")
    try:
        return getattr(aggregation, name)(**options)
    except ImportError:
        raise AuxiliaryError(not_installed) from None
