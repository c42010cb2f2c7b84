"""Several processes: global sums and counts for every term, and one gradient for the heads.

The heads lie outside the model, so DDP and FSDP2 do not know them. Their gradients are averaged here, as DDP averages
the model's: once a backward pass, when the last of the heads that took part has its gradient. Heads that are silent
take part on no rank, so nothing waits for them.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from charladder.auxiliary.errors import AuxiliaryError


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def totals(sums: list[Tensor], *counts: list[Any]) -> list[list[Tensor]]:
    """Sums and counts over all ranks, in one exchange; lists as they were given."""
    device = sums[0].device
    rows = [torch.stack([torch.as_tensor(n, device=device).detach().double() for n in row]) for row in (sums, *counts)]
    joint = torch.stack(rows)
    dist.all_reduce(joint)
    return [list(row) for row in joint]


class HeadGradients:
    """Averages the gradients of parameters that no wrapper looks after."""

    def __init__(self) -> None:
        self.handles: dict[int, Any] = {}
        self.expected: dict[int, Tensor] = {}
        self.seen: set[int] = set()

    def prepare(self, model: Any, every: Iterable[nn.Parameter], active: Iterable[nn.Parameter]) -> None:
        """Before a forward pass whose heads' parameters are `active`. The first time, rank 0's values go to all.

        Raises AuxiliaryError where the last backward pass left out heads that it was to reach.
        """
        if self.seen and len(self.seen) < len(self.expected):
            raise AuxiliaryError(
                "some heads got gradients in the last backward pass and others did not, so the ranks could not "
                "average them; call backward on report.total, and on it alone"
            )
        for parameter in every:
            if id(parameter) not in self.handles and not isinstance(parameter, DTensor):
                with torch.no_grad():
                    dist.broadcast(parameter.detach(), 0)
                self.handles[id(parameter)] = parameter.register_post_accumulate_grad_hook(self.arrived)
        # Under DDP's no_sync(), gradients stay at home, and the last micro-batch's exchange takes them all.
        at_home = isinstance(model, DistributedDataParallel) and not model.require_backward_grad_sync
        self.seen = set()
        self.expected = {} if at_home else {id(p): p for p in active if p.requires_grad and id(p) in self.handles}

    def arrived(self, parameter: Tensor) -> None:
        """The hook on each parameter: when the last one has its gradient, all are averaged at once."""
        if id(parameter) not in self.expected:
            return
        self.seen.add(id(parameter))
        if len(self.seen) < len(self.expected):
            return
        gradients = [p.grad for p in self.expected.values() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= size()
        begin = 0
        for gradient in gradients:
            gradient.copy_(flat[begin : begin + gradient.numel()].view_as(gradient))
            begin += gradient.numel()
        self.seen = set()


class Silence(torch.autograd.Function):
    """0, with a gradient of zeros: a prediction of the model that is not used still answers to DDP, which would wait
    for its parameters. Not `0 * prediction`, which is NaN where the prediction is infinite."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor) -> Tensor:
        ctx.save_for_backward(prediction.new_empty(0).expand(0))
        ctx.shape = prediction.shape
        return prediction.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (like,) = ctx.saved_tensors
        return like.new_zeros(ctx.shape)
