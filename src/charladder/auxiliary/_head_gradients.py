"""Averaging of the gradients of heads, losses and rules over ranks, under DDP and FSDP2.

Heads are outside the model, so DDP and FSDP2 do not average their gradients. HeadGradients averages them once in each
backward pass, at its end. No rank runs the head of an inactive term (weight 0), so no rank waits for its gradient.
"""

import contextlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Variable
from torch.nn.parallel import DistributedDataParallel

from charladder.auxiliary import distributed
from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._modules import submodules
from charladder.auxiliary._predictions import head_input
from charladder.auxiliary._registration import model_parameter_ids
from charladder.auxiliary._select import tensors_in
from charladder.auxiliary._term import Term
from charladder.auxiliary._wrappers import wrapped_model
from charladder.auxiliary._zero_losses import zero_loss


class ParallelWrappers:
    """The DDP wrappers whose backward pass a call of the objective takes part in."""

    def __init__(self, model: Any) -> None:
        """model: the argument of the objective's call. To be made before the model runs."""
        # The DDP wrapper whose forward pass calls the objective.
        outer: DistributedDataParallel | None = getattr(DistributedDataParallel, "_active_ddp_module", None)
        self.of_model = ddp_around(model)
        self.all = [ddp for ddp in (self.of_model, outer) if ddp is not None]
        # Those that need a gradient for each of their parameters in every backward pass.
        self.strict = [ddp for ddp in self.all if not ddp.find_unused_parameters]

    def parameter_ids(self, strict: bool = False) -> set[int]:
        """The ids of the parameters whose gradients DDP averages; strict: of those that must have one."""
        return {key for ddp in (self.strict if strict else self.all) for key in _parameter_ids(ddp)}


class HeadGradients:
    """Averages the gradients of parameters that no wrapper averages."""

    def __init__(self) -> None:
        self._handles: dict[int, Any] = {}
        self._active: dict[int, nn.Parameter] = {}
        self._is_queued = False

    def prepare(self, objective: Any, active: Iterable[str], wrappers: ParallelWrappers, world_size: int) -> None:
        """Prepares the backward pass of one call of an objective with `active` terms, before it calls a head.

        world_size: the number of processes. Raises AuxiliaryError if DDP would take heads for unused.
        """
        is_averaged_by_fsdp2 = objective.wrapped or _is_sharded_by_fsdp2(objective, objective.taps.model)
        averages = world_size > 1 and not is_averaged_by_fsdp2
        if wrappers.of_model is None and not averages:
            return
        trained = _trained_parameters(objective.terms, active, objective.rule, objective.taps.model)
        if wrappers.of_model is not None:
            _check_heads_outside(wrappers.of_model, trained)
        if averages:
            of_ddp = wrappers.parameter_ids()
            self._broadcast_new(p for p in objective.parameters() if id(p) not in of_ddp)
            # Under DDP's no_sync() no rank exchanges gradients; the last micro-batch averages the accumulated ones.
            ddp = wrappers.of_model
            no_sync = ddp is not None and not ddp.require_backward_grad_sync
            averaged = [p for p in trained if p.requires_grad and id(p) in self._handles and id(p) not in of_ddp]
            self._active = {} if no_sync else {id(p): p for p in averaged}
            self._is_queued = False

    def _broadcast_new(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sets parameters to the values of rank 0 before their first call, and registers their hooks."""
        for parameter in parameters:
            if id(parameter) not in self._handles and not distributed.is_sharded(parameter):
                with torch.no_grad():
                    dist.broadcast(parameter.detach(), 0)
                self._handles[id(parameter)] = parameter.register_post_accumulate_grad_hook(self._queue_all_reduce)

    def _queue_all_reduce(self, parameter: Tensor) -> None:
        """The hook on each parameter: the first one queues the all-reduce for the end of the backward pass."""
        if id(parameter) in self._active and not self._is_queued:
            self._is_queued = True
            engine: Any = Variable._execution_engine  # pyright: ignore[reportPrivateUsage]
            engine.queue_callback(self._all_reduce)

    def _all_reduce(self) -> None:
        """Averages all gradients in one exchange; zeros for a parameter that no term reached."""
        self._is_queued = False
        parameters = list(self._active.values())
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        pieces = torch.split(distributed.all_reduce_mean(flat), [p.numel() for p in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(piece.view_as(parameter))


def _trained_parameters(
    terms: Mapping[str, Term], active: Iterable[str], rule: Any, model: nn.Module | None
) -> list[nn.Parameter]:
    """The parameters of an objective that get a gradient when these terms are active: of heads, losses and its rule."""
    modules: list[Any] = [rule]
    for name in active:
        term = terms[name]
        modules += [term.loss] if term.detach_head else [term.head, term.loss]
    parameters = {id(p): p for module in modules if isinstance(module, nn.Module) for p in module.parameters()}
    of_model = model_parameter_ids(model)
    return [parameter for key, parameter in parameters.items() if key not in of_model]


def _is_sharded_by_fsdp2(objective: nn.Module, model: nn.Module | None) -> bool:
    """Whether FSDP2 shards this objective: by itself, or with the model that holds it."""
    if model is not None and _is_fsdp2(model) and any(module is objective for module in model.modules()):
        return True
    return _is_fsdp2(objective)


def _check_heads_outside(ddp: DistributedDataParallel, trained: Iterable[nn.Parameter]) -> None:
    """Raises AuxiliaryError if DDP would take heads for unused because they are called after its forward pass."""
    if ddp.find_unused_parameters and set(map(id, trained)) & _parameter_ids(ddp):
        raise AuxiliaryError(
            "the model holds its objective, and DDP with find_unused_parameters=True takes heads that are called "
            "after the model's forward pass for unused; leave find_unused_parameters out, since inactive heads get "
            "gradients of zero here"
        )


def zero_loss_of_unused(
    objective: Any, weights: Mapping[str, float], output: Any, wrappers: ParallelWrappers
) -> Tensor:
    """0, with gradients of zero for what no active term uses and DDP waits for: predictions that the model returns,
    heads, loss modules, and a rule."""
    terms: Mapping[str, Term] = objective.terms
    model_heads: Mapping[str, nn.Module] = objective.taps.heads
    tensors: list[Tensor] = []
    modules: list[Any] = [objective.rule]
    for name, term in terms.items():
        if weights[name] == 0 and term.tap is None:
            with contextlib.suppress(AuxiliaryError):  # a model may leave out what no term reads
                tensors += tensors_in(head_input(name, terms, output, {}, None))
        if weights[name] == 0 or term.detach_head:
            modules += [model_heads.get(term.head) if isinstance(term.head, str) else term.head, term.loss]
    parameters = {id(p): p for module in modules if isinstance(module, nn.Module) for p in module.parameters()}
    required = wrappers.parameter_ids(strict=True)
    return zero_loss([*tensors, *(parameter for key, parameter in parameters.items() if key in required)])


def ddp_around(model: Any) -> DistributedDataParallel | None:
    """The DDP wrapper of a model, which may be compiled or inside another wrapper."""
    while isinstance(model, nn.Module) and not isinstance(model, DistributedDataParallel):
        # Lightning Fabric's module has the model twice: inside the wrapper that runs it, and by itself.
        model = submodules(model).get("_forward_module") or wrapped_model(model)
    return model if isinstance(model, DistributedDataParallel) else None


def _parameter_ids(ddp: DistributedDataParallel) -> set[int]:
    return set(map(id, cast("nn.Module", ddp.module).parameters()))


def _is_fsdp2(module: nn.Module) -> bool:
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)
