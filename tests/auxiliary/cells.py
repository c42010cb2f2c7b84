"""The cells of the table in docs/support.md: a feature of the library in a training setting, and its hand-written peer.

`run` trains with the library, `run_by_hand` with hand-written losses on the same network. Both return tensors by name:
gradients, weights after some steps, or the numbers of a diagnosis.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from auxiliary.features import FIRST_MICRO_BATCH, RATE, STEPS, WEIGHT, Feature, Network, data, fill_parameters, head
from charladder import auxiliary as aux

# Settings: the columns.

SINGLE_PROCESS = [
    "plain",
    "autocast bf16",
    "attached, then compiled",
    "compiled and run, then attached",
    "checkpointing, `use_reentrant=False`",
    "checkpointing, `use_reentrant=True`",
]
PLAIN, AUTOCAST, ATTACHED_FIRST, COMPILED_FIRST, CHECKPOINTED, REENTRANT = SINGLE_PROCESS
DDP, FSDP2 = "DDP", "FSDP2"


def dtype_and_context(setting: str) -> tuple[torch.dtype, Any]:
    """The dtype of the weights, and the context of a forward pass."""
    if setting == AUTOCAST:
        return torch.float32, torch.autocast("cpu", torch.bfloat16)
    return torch.float64, contextlib.nullcontext()


def compiled(network: nn.Module) -> Any:
    torch.compiler.reset()  # compiled code of other cells
    return torch.compile(network, backend="aot_eager")


def wrap_parallel(network: Network, setting: str) -> Any:
    """The network in DDP or FSDP2, or itself."""
    if setting == DDP:
        return DistributedDataParallel(network)
    if setting == FSDP2:
        mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
        for block in network.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(network, mesh=mesh)
    return network


@contextlib.contextmanager
def gradient_sync_off(model: Any, stay: bool) -> Iterator[None]:
    """Without exchange of gradients, if `stay`: for a micro-batch that is not the last."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(not stay)
    with model.no_sync() if stay and isinstance(model, DistributedDataParallel) else contextlib.nullcontext():
        yield


def full_tensor(tensor: Tensor | None, like: Tensor) -> Tensor:
    """A gradient or a weight, gathered from all ranks; zeros for no gradient."""
    tensor = torch.zeros_like(like) if tensor is None else tensor
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def gradients_of(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{k} {n}": full_tensor(p.grad, p) for k, module in modules.items() for n, p in module.named_parameters()}


def weights_of(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{k} {n}": full_tensor(p, p) for k, module in modules.items() for n, p in module.named_parameters()}


def sgd(modules: dict[str, nn.Module]) -> torch.optim.SGD:
    return torch.optim.SGD([p for module in modules.values() for p in module.parameters()], RATE)


# A cell with the library.


def run(feature: Feature, setting: str, share: slice = slice(None)) -> dict[str, Tensor]:
    """The result of the library for a feature in a setting; share: the examples of this rank. Raises AuxiliaryError."""
    dtype, mode = dtype_and_context(setting)
    reentrant = {CHECKPOINTED: False, REENTRANT: True}.get(setting)
    network = Network(**feature.options, reentrant=reentrant).to(dtype)
    fill_parameters(network, 0)
    x, y = (tensor[share] for tensor in data(dtype))
    objective = aux.Objective(aux.Term(F.cross_entropy), feature.terms())
    model = wrap_parallel(network, setting)
    if setting == ATTACHED_FIRST:
        objective.attach(network)
        model = compiled(network)
    if setting == COMPILED_FIRST:
        model = compiled(network)
        model(
            x[: FIRST_MICRO_BATCH if feature.training == "micro_batches" else None]
        )  # another shape would compile again
    if feature.build:
        objective.build(model, x)
    objective.to(dtype)
    fill_parameters(objective, 1)
    return getattr(LibraryTrainer(network, model, objective, mode), feature.training)(x, y)


class LibraryTrainer:
    """Training with the library; one method for each kind of `Feature.training`."""

    def __init__(
        self, network: Network, model: Any, objective: aux.Objective, mode: Any, backward: Any = Tensor.backward
    ) -> None:
        self.network, self.model, self.objective, self.mode, self.backward = network, model, objective, mode, backward
        self.modules = {"network": network, "heads": objective}

    def report(self, x: Tensor, y: Tensor, **more: Any) -> aux.Report:
        with self.mode:
            return self.objective(self.model, x, y, **more)

    def gradients(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        self.backward(self.report(x, y).total)
        return gradients_of(self.modules)

    def inactive_steps(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        optimizer = sgd(self.modules)
        for step in range(STEPS):
            self.backward(self.report(x, y, progress=step / STEPS).total)
            optimizer.step()
            optimizer.zero_grad()
        return weights_of(self.modules)

    def micro_batches(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        pieces = [(x[:FIRST_MICRO_BATCH], y[:FIRST_MICRO_BATCH]), (x[FIRST_MICRO_BATCH:], y[FIRST_MICRO_BATCH:])]
        counts = self.objective.counts(y for _, y in pieces)
        for place, (x, y) in enumerate(pieces, 1):
            with gradient_sync_off(self.model, stay=place < len(pieces)):
                self.backward(self.report(x, y, counts=counts).total)
        return gradients_of(self.modules)

    def diagnosis(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        self.report(x, y).total.backward()  # a compiled model has run a training step before
        for module in self.modules.values():
            module.zero_grad()
        report = self.report(x, y)
        numbers = aux.diagnose(report, aux.by_depth(self.model, "blocks.*")).as_dict()
        report.total.backward()
        facts = [*numbers["groups"]["inner"].values(), numbers["main_share"]]
        norms = [*numbers["gradient_norms_without"].values(), *numbers["gradient_norms"].values()]
        return {"diagnosis": torch.tensor(facts + norms, dtype=torch.float64)} | gradients_of(self.modules)

    def gated_steps(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        optimizer = sgd(self.modules)
        trunk = self.network.trunk()
        mine = set(map(id, trunk))
        others = [p for p in self.network.parameters() if id(p) not in mine]
        self.report(x, y).total.backward()  # as before a diagnosis
        optimizer.zero_grad()
        for _ in range(2):  # DDP raises in the next forward pass
            aux.gradients.backward(self.report(x, y), trunk, aux.gradients.cosine_gate, others)
            optimizer.step()
            optimizer.zero_grad()
        return weights_of(self.modules)


# The same by hand.


def run_by_hand(feature: Feature, setting: str) -> dict[str, Tensor]:
    """The tensors that `run` must return, over the full batch, in one process."""
    dtype, mode = dtype_and_context(setting)
    network, own = Network(**feature.options).to(dtype), head().to(dtype)
    fill_parameters(network, 0)
    fill_parameters(own, 1)
    return getattr(HandWrittenTrainer(feature, network, own, mode), feature.training)(*data(dtype))


class HandWrittenTrainer:
    """The same training as LibraryTrainer's, with hand-written losses."""

    def __init__(self, feature: Feature, network: Network, own: nn.Linear, mode: Any) -> None:
        self.feature, self.network, self.own, self.mode = feature, network, own, mode
        self.modules = {"network": network, "heads": own}

    def losses(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with self.mode:
            states = self.network.states(x)
            main = F.cross_entropy(self.network.last(states[-1]), y)
            return main, WEIGHT * self.feature.by_hand(self.network, self.own, states, y)

    def gradients(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        sum(self.losses(x, y)).backward()
        return gradients_of(self.modules)

    def inactive_steps(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        optimizer = sgd(self.modules)
        for step in range(STEPS):
            main, inner = self.losses(x, y)
            (main + inner if step < STEPS / 2 else main).backward()
            optimizer.step()
            optimizer.zero_grad()
        return weights_of(self.modules)

    def micro_batches(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        for piece in (slice(FIRST_MICRO_BATCH), slice(FIRST_MICRO_BATCH, None)):
            part = len(y[piece]) / len(y)
            sum(part * loss for loss in self.losses(x[piece], y[piece])).backward()
        return gradients_of(self.modules)

    def by_term(self, x: Tensor, y: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
        """The gradients of the main and the auxiliary loss, flat."""
        found = [
            torch.autograd.grad(one, parameters, retain_graph=True, allow_unused=True) for one in self.losses(x, y)
        ]
        return [torch.cat([full_tensor(g, p).flatten() for g, p in zip(row, parameters, strict=True)]) for row in found]

    def diagnosis(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        blocks = [list(block.parameters()) for block in self.network.blocks]
        main, inner = self.by_term(x, y, [p for block in blocks for p in block])
        total = main + inner
        facts = [F.cosine_similarity(inner, main, dim=0), inner.norm() / main.norm()]
        facts += [inner @ total / (total @ total), main @ total / (total @ total)]
        norms = [piece.norm() for gradient in (main, total) for piece in gradient.chunk(2)]
        return {"diagnosis": torch.stack(facts + norms)} | self.gradients(x, y)

    def gated_steps(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        optimizer = sgd(self.modules)
        trunk = self.network.trunk()
        for _ in range(2):
            main, inner = self.by_term(x, y, trunk)
            self.gradients(x, y)
            gated = main + F.cosine_similarity(main, inner, dim=0).clamp(min=0) * inner
            for parameter, piece in zip(trunk, gated.split([p.numel() for p in trunk]), strict=True):
                parameter.grad = piece.view_as(parameter)
            optimizer.step()
            optimizer.zero_grad()
        return weights_of(self.modules)


def max_relative_difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest difference, relative to the largest number in each tensor. Heads have other names in the library. The
    hand-written peer has a head even if the feature has none."""
    gaps = []
    for names in ("network", "heads", "diagnosis"):
        ours = [tensor for name, tensor in found.items() if name.startswith(names)]
        theirs = [tensor for name, tensor in wanted.items() if name.startswith(names)]
        for one, other in zip(ours, theirs, strict=bool(ours) or names != "heads"):
            gaps.append(float((one - other).abs().max() / (other.abs().max() or 1)))
    return max(gaps)
