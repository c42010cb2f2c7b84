"""Processes of torchrun that train one network: ranks, collective operations, and DDP or FSDP2 around the modules.

All ranks make the same calls in the same order. Values that could differ between ranks (seconds, stop requests, names,
scores) are those of rank 0.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from charladder.auxiliary import Report
from charladder.auxiliary.distributed import is_sharded
from charladder.errors import UserError
from charladder.model import Transformer
from charladder.objective import LanguageModelObjective
from charladder.training.config import TrainingConfig

ParallelMode = Literal["one", "ddp", "fsdp"]
_OPEN_GROUPS: list[Any] = []  # keeps process groups alive until the process exits


@contextmanager
def process_group() -> Iterator[None]:
    """Joins the other ranks, where torchrun has started this process; else nothing happens."""
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield
        return
    if local_rank() < torch.cuda.device_count():
        torch.cuda.set_device(local_rank())
    # torchrun keeps one store over restarts, in which the new ranks would find where the dead ones were: so each
    # attempt has keys of its own. Where it is told not to, every attempt has a store of its own, and over several
    # machines that is the way: only those on which a process has died count their attempts.
    torch_dist: Any = dist
    store, own, most = next(iter(torch_dist.rendezvous("env://")))
    apart = os.environ.get("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") == "1"
    attempt = "0" if apart else os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(store=torch_dist.PrefixStore(attempt, store), rank=own, world_size=most)
    # DDP's reducer refers to the group, and where it is the last to do so, it waits for the group's threads while it
    # holds the GIL, which these threads may need: a deadlock. This list therefore keeps a reference.
    _OPEN_GROUPS.append(torch_dist.group.WORLD)
    try:
        yield
    finally:
        dist.destroy_process_group()


def is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    return dist.get_world_size() if is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if is_initialized() else 0


def is_rank_zero() -> bool:
    """Whether this process is the one that writes: the only one, or rank 0."""
    return rank() == 0


def local_rank() -> int:
    """Which of the processes on this machine this is."""
    return int(os.environ.get("LOCAL_RANK", "0")) if is_initialized() or dist.is_torchelastic_launched() else 0


def restart_counts() -> tuple[int, int]:
    """How often torchrun has started this job anew, and how often it may."""
    if not is_initialized():
        return 0, 0
    names = "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"
    done, most = (int(os.environ.get(name, "0")) for name in names)
    return done, most


def job_name() -> str | None:
    """What torchrun calls this job, over all restarts; None where it has no name."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none") if is_initialized() else "none"
    return None if name == "none" else name


def barrier() -> None:
    """Waits until all ranks have called it."""
    if is_initialized():
        dist.barrier()


def broadcast_and_any(value: float, stop: bool = False) -> tuple[float, bool]:
    """Rank 0's number, and whether any rank wants to stop."""
    if world_size() == 1:
        return value, stop
    both = torch.tensor([value if is_rank_zero() else 0.0, float(stop)], dtype=torch.float64)
    dist.all_reduce(both)
    return float(both[0]), bool(both[1] > 0)


def all_reduce_min(value: int) -> int:
    """The smallest of the ranks' numbers."""
    if world_size() == 1:
        return value
    number = torch.tensor(value)
    dist.all_reduce(number, dist.ReduceOp.MIN)
    return int(number)


def on_rank_zero(action: Callable[[], Any]) -> Any:
    """What rank 0's action returns (JSON), on all ranks; or its UserError, or OSError as one, which all raise."""
    if world_size() == 1:
        return action()
    found: dict[str, Any] = {}
    if is_rank_zero():
        try:
            found = {"value": action()}
        except UserError as error:
            found = {"refused": str(error), "field": error.field}
        except OSError as error:
            found = {"refused": f"{error.filename or 'a file'}: {error.strerror or error}"}
    sent: list[Any] = [json.dumps(found)]
    dist.broadcast_object_list(sent, 0)
    found = json.loads(sent[0])
    if "refused" in found:
        raise UserError(found["refused"], field=found.get("field"))
    return found["value"]


class NetworkAndObjective(nn.Module):
    """Network and objective as one module, which is what DDP and FSDP2 take: with all parameters that learn."""

    def __init__(self, network: Transformer, objective: LanguageModelObjective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, function: Callable[[Transformer, LanguageModelObjective], Any]) -> Any:
        """Whatever is to be done with the two, while all their parameters are at hand."""
        return function(self.network, self.objective)


def choose_parallel_mode(settings: TrainingConfig, network: Transformer) -> ParallelMode:
    """`auto` is DDP where torchrun has started several; one process has nothing to share out, whatever it says.

    Raises UserError for what cannot be shared out.
    """
    if not is_initialized():
        return "one"
    if settings.batch % world_size():
        raise UserError(
            f"training.batch is {settings.batch} windows for {world_size()} processes; make it a multiple of "
            f"{world_size()}"
        )
    if world_size() == 1 and settings.parallel == "auto":
        return "one"
    if network.ngrams is not None:
        raise UserError(
            "embeddings of n-grams have sparse gradients, which several processes do not get right (DDP gives two of "
            "them half, FSDP2 takes none); use one process, or model.ngrams 0"
        )
    if settings.parallel != "fsdp":
        return "ddp"
    if settings.optimizer == "muon":
        raise UserError(
            "training.parallel fsdp cuts matrices into rows, and Muon needs whole ones; use training.parallel ddp, or "
            "training.optimizer adamw"
        )
    return "fsdp"


def parallelize(module: NetworkAndObjective, parallel: ParallelMode, device: torch.device) -> nn.Module:
    """`whole`, with its gradients averaged over the ranks, and under FSDP2 its parameters cut into as many pieces."""
    if parallel == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        # Layers fall silent one by one: their heads are then used on no rank, and DDP is not to wait for them.
        ids = [torch.cuda.current_device()] if device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids, find_unused_parameters=True)
    if parallel == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (world_size(),))
        for block in module.network.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)  # embeddings, classifiers and heads stay whole from forward to backward
    return module


def grad_sync(module: nn.Module, parallel: ParallelMode, last: bool) -> AbstractContextManager[None]:
    """Gradients are exchanged at the last micro-batch of a step only."""
    if parallel == "ddp" and not last:
        return cast(Any, module).no_sync()
    if parallel == "fsdp":
        cast(Any, module).set_requires_gradient_sync(last)
    return contextlib.nullcontext()


def with_global_total(report: Report) -> Report:
    """A report whose total is that of all ranks, and no longer this one's share."""
    return Report(torch.tensor(report.value, dtype=torch.float64), report.terms) if world_size() > 1 else report


def full_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in one piece each; those that lie in pieces are fetched from all ranks, by all."""
    return {name: cast(Any, t).full_tensor() if is_sharded(t) else t for name, t in tensors.items()}


def distribute_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every rank has, on the device of `like` and cut as that one is."""
    if not is_sharded(like):
        return value.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = cast(Any, like).device_mesh, cast(Any, like).placements
    return distribute_tensor(value.to(like.device), mesh, placements, src_data_rank=None)


def load_full_state_dict(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """load_state_dict for whole tensors, into parameters that may lie in pieces. Raises as it does."""
    own = module.state_dict()
    module.load_state_dict(
        {n: distribute_like(t, own[n]) if n in own and own[n].shape == t.shape else t for n, t in tensors.items()}
    )
