"""Several processes: global sums and counts for every term, and one gradient for the heads.

The heads lie outside the model, so DDP and FSDP2 do not know them. Their gradients are averaged here, as DDP averages
the model's: once a backward pass, at its end. Heads that are silent take part on no rank, so nothing waits for them.
"""

import sys
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Variable
from torch.nn.parallel import DistributedDataParallel

from charladder.auxiliary._report import TermReport
from charladder.auxiliary._wrappers import innermost_module


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_initialized() -> bool:
    """Whether parameters may be sharded: over one process too."""
    return dist.is_available() and dist.is_initialized()


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor lies in pieces on several ranks. Its type takes a second to import: where nobody has, there is
    none."""
    known = sys.modules.get("torch.distributed.tensor")
    return known is not None and isinstance(tensor, known.DTensor)


def all_reduce_sums(sums: list[Tensor], *counts: list[Any]) -> list[list[Tensor]]:
    """Sums and counts over all ranks, in one exchange; lists as they were given."""
    device = sums[0].device
    rows = [torch.stack([torch.as_tensor(n, device=device).detach().double() for n in row]) for row in (sums, *counts)]
    joint = torch.stack(rows)
    dist.all_reduce(joint)
    return [list(row) for row in joint]


def reduce_over_ranks(term: TermReport) -> TermReport:
    """The report of one term with the sums and counts of all processes."""
    if world_size() == 1:
        return term
    (loss,), (count,) = all_reduce_sums([term.sum], [term.count])
    return TermReport(loss, count, term.weight)


def all_reduce_mean(gradient: Tensor) -> Tensor:
    """Over all ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(gradient)
        gradient /= world_size()
    return gradient


class ParallelWrappers:
    """The DDP wrappers whose backward pass a call of the objective takes part in."""

    def __init__(self, model: Any) -> None:
        """model: as the objective is called with. Has to be made before the model runs."""
        around = getattr(DistributedDataParallel, "_active_ddp_module", None)  # whose forward pass calls the objective
        self.of_model = ddp_around(model)
        self.all = [one for one in (self.of_model, around) if one is not None]
        # Those that need a gradient for each of their parameters in every backward pass.
        self.strict = [one for one in self.all if not one.find_unused_parameters]

    def held(self, strict: bool = False) -> set[int]:
        """The ids of the parameters whose gradients DDP averages; strict: of those that must have one."""
        return {key for ddp in (self.strict if strict else self.all) for key in parameter_ids(ddp.module)}


def parameter_ids(module: nn.Module) -> set[int]:
    """The `id` of every parameter of a module."""
    return {id(parameter) for parameter in module.parameters()}


def ddp_around(model: Any) -> DistributedDataParallel | None:
    """The DDP wrapper of a model, which may be compiled or inside another wrapper."""
    while isinstance(model, nn.Module) and not isinstance(model, DistributedDataParallel):
        model = model._modules.get("_forward_module") or innermost_module(
            model
        )  # Lightning Fabric's module has the model twice
    return model if isinstance(model, DistributedDataParallel) else None


def shards(module: Any) -> bool:
    """Whether FSDP2 shards this module, and with it the modules inside."""
    known = sys.modules.get("torch.distributed.fsdp")
    return known is not None and isinstance(module, known.FSDPModule)


class HeadGradients:
    """Averages the gradients of parameters that no wrapper looks after."""

    def __init__(self) -> None:
        self.handles: dict[int, Any] = {}
        self.active: dict[int, nn.Parameter] = {}
        self.queued = False

    def prepare(self, model: Any, every: Iterable[nn.Parameter], active: Iterable[nn.Parameter]) -> None:
        """For one call, whose heads' parameters are `active`. The first time, rank 0's values go to all."""
        for parameter in every:
            if id(parameter) not in self.handles and not is_sharded(parameter):
                with torch.no_grad():
                    dist.broadcast(parameter.detach(), 0)
                self.handles[id(parameter)] = parameter.register_post_accumulate_grad_hook(self.arrived)
        # Under DDP's no_sync(), gradients stay at home, and the last micro-batch's exchange takes them all.
        ddp = ddp_around(model)
        at_home = ddp is not None and not ddp.require_backward_grad_sync
        self.active = {} if at_home else {id(p): p for p in active if p.requires_grad and id(p) in self.handles}
        self.queued = False

    def arrived(self, parameter: Tensor) -> None:
        """The hook on each parameter: the first that has its gradient asks for the exchange, at the end of the pass."""
        if id(parameter) in self.active and not self.queued:
            self.queued = True
            Variable._execution_engine.queue_callback(self.exchange)

    def exchange(self) -> None:
        """All are averaged at once, zeros for one that no term reached; what was averaged before stays as it is."""
        self.queued = False
        several = list(self.active.values())
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in several])
        for parameter, piece in zip(several, all_reduce_mean(flat).split([p.numel() for p in several]), strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(piece.view_as(parameter))
