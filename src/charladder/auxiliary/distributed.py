"""Sums over the processes that train together."""

import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from charladder.auxiliary._report import TermReport, sum_of_parts


def world_size() -> int:
    """The number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if is_initialized() else 1


def is_initialized() -> bool:
    """Whether there is a process group. Parameters may then be sharded, over one process too."""
    return dist.is_available() and dist.is_initialized()


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, with pieces on several ranks."""
    # Importing DTensor takes a second. If no module has imported it, there is none.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def all_reduce_sums(sums: list[Tensor], *counts: list[Any]) -> list[list[Tensor]]:
    """Sums and counts over all ranks, in one all-reduce; in the lists in which they were given."""
    device = sums[0].device
    rows = [torch.stack([torch.as_tensor(n, device=device).detach().double() for n in row]) for row in (sums, *counts)]
    joint = torch.stack(rows)
    dist.all_reduce(joint)
    return [list(row) for row in joint]


def reduce_over_ranks(term: TermReport) -> TermReport:
    """The report of one term with the sums and counts of all processes."""
    if world_size() == 1:
        return term
    if term.parts:
        return sum_of_parts({part: reduce_over_ranks(one) for part, one in term.parts.items()}, term.weight)
    (loss,), (count,) = all_reduce_sums([term.sum], [term.count])
    return TermReport(loss, count, term.weight)


def all_reduce_mean(gradient: Tensor) -> Tensor:
    """The mean over all ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(gradient)
        gradient /= world_size()
    return gradient
