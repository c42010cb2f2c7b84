"""Training with several processes (torchrun): ranks, collective operations, DDP and FSDP2.

All ranks must make the same calls in the same order. Values that may differ between ranks (seconds, names, scores) are
taken from rank 0.
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
from charladder.training.sparse_gradients import sparse_parameters

ParallelMode = Literal["none", "ddp", "fsdp"]
_OPEN_GROUPS: list[Any] = []  # keeps process groups alive until the process exits


@contextmanager
def process_group() -> Iterator[None]:
    """Joins the process group, if torchrun has started this process; otherwise does nothing."""
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield
        return
    if local_rank() < torch.cuda.device_count():
        torch.cuda.set_device(local_rank())
    # torchrun keeps one store over restarts, so the new ranks would read the addresses of the old ones. A prefix with
    # the restart count separates the attempts. With TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 each attempt has a new store
    # and needs no prefix. Jobs on several machines need that, because a machine counts only the restarts after its own
    # failures.
    torch_dist: Any = dist
    store, own_rank, size = next(iter(torch_dist.rendezvous("env://")))
    has_new_store = os.environ.get("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") == "1"
    attempt = "0" if has_new_store else os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(store=torch_dist.PrefixStore(attempt, store), rank=own_rank, world_size=size)
    # If DDP's reducer holds the last reference to the group, it joins the threads of the group while it holds the GIL,
    # which these threads may need: a deadlock. This list keeps another reference.
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
    """Whether this process writes files: it is the only process, or rank 0."""
    return rank() == 0


def local_rank() -> int:
    """The rank of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) if is_initialized() or dist.is_torchelastic_launched() else 0


def restart_counts() -> tuple[int, int]:
    """How many times torchrun has restarted this job, and the limit (`--max-restarts`)."""
    if not is_initialized():
        return 0, 0
    names = "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"
    restarts, max_restarts = (int(os.environ.get(name, "0")) for name in names)
    return restarts, max_restarts


def job_name() -> str | None:
    """The rendezvous id of this job, which restarts do not change; None if it has none."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none") if is_initialized() else "none"
    return None if name == "none" else name


def barrier() -> None:
    """Waits until all ranks have called it."""
    if is_initialized():
        dist.barrier()


def broadcast_and_any(value: float, stop: bool = False) -> tuple[float, bool]:
    """`value` of rank 0, and whether `stop` is true on any rank."""
    if world_size() == 1:
        return value, stop
    sums = torch.tensor([value if is_rank_zero() else 0.0, float(stop)], dtype=torch.float64)
    dist.all_reduce(sums)
    return float(sums[0]), bool(sums[1] > 0)


def all_reduce_min(value: int) -> int:
    """The smallest `value` of all ranks."""
    if world_size() == 1:
        return value
    minimum = torch.tensor(value)
    dist.all_reduce(minimum, dist.ReduceOp.MIN)
    return int(minimum)


def on_rank_zero(action: Callable[[], Any]) -> Any:
    """Calls `action` on rank 0 and returns its result, which must be JSON, on all ranks. If `action` raises UserError
    or OSError, all ranks raise UserError."""
    if world_size() == 1:
        return action()
    result: dict[str, Any] = {}
    if is_rank_zero():
        try:
            result = {"value": action()}
        except UserError as error:
            result = {"error": str(error), "field": error.field}
        except OSError as error:
            result = {"error": f"{error.filename or 'a file'}: {error.strerror or error}"}
    objects: list[Any] = [json.dumps(result)]
    dist.broadcast_object_list(objects, 0)
    result = json.loads(objects[0])
    if "error" in result:
        raise UserError(result["error"], field=result.get("field"))
    return result["value"]


class NetworkAndObjective(nn.Module):
    """Network and objective as one module with all trained parameters, because DDP and FSDP2 wrap one module."""

    def __init__(self, network: Transformer, objective: LanguageModelObjective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, function: Callable[[Transformer, LanguageModelObjective], Any]) -> Any:
        """Calls `function` within forward(), where FSDP2 has gathered the parameters."""
        return function(self.network, self.objective)


def choose_parallel_mode(settings: TrainingConfig, network: Transformer) -> ParallelMode:
    """The parallel mode of this process. `auto` is DDP if torchrun has started several processes; without torchrun the
    mode is always `none`.

    Raises UserError if the settings do not allow several processes.
    """
    if not is_initialized():
        return "none"
    if settings.batch % world_size():
        raise UserError(
            f"training.batch is {settings.batch} windows for {world_size()} processes; make it a multiple of "
            f"{world_size()}"
        )
    if world_size() == 1 and settings.parallel == "auto":
        return "none"
    if sparse_parameters(network):
        raise UserError(
            "embeddings of n-grams have sparse gradients, which several processes do not support (DDP computes a wrong "
            "gradient, FSDP2 refuses them); use one process, or model.ngrams 0"
        )
    if settings.parallel != "fsdp":
        return "ddp"
    if settings.optimizer == "muon":
        raise UserError(
            "training.parallel fsdp shards matrices by rows, and Muon needs whole ones; use training.parallel ddp, or "
            "training.optimizer adamw"
        )
    return "fsdp"


def parallelize(module: NetworkAndObjective, parallel: ParallelMode, device: torch.device) -> nn.Module:
    """`module`, wrapped so that gradients are averaged over the ranks; FSDP2 also shards its parameters."""
    if parallel == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        # When the weight of a layer's loss becomes 0, no rank uses its head, and DDP must not wait for its gradient.
        ids = [torch.cuda.current_device()] if device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids, find_unused_parameters=True)
    if parallel == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (world_size(),))
        for block in module.network.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)  # embeddings, classifiers and heads stay gathered from forward to backward
    return module


def grad_sync(module: nn.Module, parallel: ParallelMode, last: bool) -> AbstractContextManager[None]:
    """A context for one micro-batch: gradients are reduced over the ranks in the last micro-batch of a step only."""
    if parallel == "ddp" and not last:
        return cast(Any, module).no_sync()
    if parallel == "fsdp":
        cast(Any, module).set_requires_gradient_sync(last)
    return contextlib.nullcontext()


def with_global_total(report: Report) -> Report:
    """`report` with the total of all ranks instead of the share of this rank."""
    return Report(torch.tensor(report.value, dtype=torch.float64), report.terms) if world_size() > 1 else report


def full_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with sharded tensors gathered from all ranks. All ranks call it."""
    return {name: cast(Any, t).full_tensor() if is_sharded(t) else t for name, t in tensors.items()}


def distribute_like(value: Tensor, like: Tensor) -> Tensor:
    """`value`, a full tensor that every rank has, on the device of `like` and sharded as `like` is."""
    if not is_sharded(like):
        return value.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = cast(Any, like).device_mesh, cast(Any, like).placements
    return distribute_tensor(value.to(like.device), mesh, placements, src_data_rank=None)


def load_full_state_dict(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Module.load_state_dict for full tensors, into parameters that may be sharded. Raises the same errors."""
    state = module.state_dict()
    module.load_state_dict(
        {n: distribute_like(t, state[n]) if n in state and state[n].shape == t.shape else t for n, t in tensors.items()}
    )
