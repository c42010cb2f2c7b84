"""The cells of the table of support: a feature in every setting a model is trained in; and the same by hand.

`run` trains with the library, `run_by_hand` with losses written out on the plain network. Both return tensors by name:
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

from auxiliary.features import PIECE, RATE, STEPS, WEIGHT, Feature, Network, data, fill, head
from charladder import auxiliary as aux

# Settings: the columns.

ALONE = [
    "plain",
    "autocast bf16",
    "attached, then compiled",
    "compiled and run, then attached",
    "checkpointing, `use_reentrant=False`",
    "checkpointing, `use_reentrant=True`",
]
PLAIN, AUTOCAST, ATTACHED_FIRST, COMPILED_FIRST, CHECKPOINTED, REENTRANT = ALONE
DDP, FSDP2 = "DDP", "FSDP2"


def precision(setting: str) -> tuple[torch.dtype, Any]:
    """The type of the weights, and what a forward pass happens in."""
    if setting == AUTOCAST:
        return torch.float32, torch.autocast("cpu", torch.bfloat16)
    return torch.float64, contextlib.nullcontext()


def compiled(network: nn.Module) -> Any:
    torch.compiler.reset()  # one cell has nothing from another
    return torch.compile(network, backend="aot_eager")


def wrap(network: Network, setting: str) -> Any:
    """For several ranks."""
    if setting == DDP:
        return DistributedDataParallel(network)
    if setting == FSDP2:
        mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
        for block in network.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(network, mesh=mesh)
    return network


@contextlib.contextmanager
def gradients_at_home(model: Any, stay: bool) -> Iterator[None]:
    """Of a micro-batch that is not the last."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(not stay)
    with model.no_sync() if stay and isinstance(model, DistributedDataParallel) else contextlib.nullcontext():
        yield


def whole(tensor: Tensor | None, like: Tensor) -> Tensor:
    """A gradient or a weight from all ranks; zeros for no gradient."""
    tensor = torch.zeros_like(like) if tensor is None else tensor
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def gradients_of(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{k} {n}": whole(p.grad, p) for k, module in modules.items() for n, p in module.named_parameters()}


def weights_of(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{k} {n}": whole(p, p) for k, module in modules.items() for n, p in module.named_parameters()}


def sgd(modules: dict[str, nn.Module]) -> torch.optim.SGD:
    return torch.optim.SGD([p for module in modules.values() for p in module.parameters()], RATE)


# A cell with the library.


def run(feature: Feature, setting: str, share: slice = slice(None)) -> dict[str, Tensor]:
    """What the library makes of a feature in a setting; `share`: of the batch, this rank's. Raises AuxiliaryError."""
    dtype, mode = precision(setting)
    reentrant = {CHECKPOINTED: False, REENTRANT: True}.get(setting)
    network = Network(**feature.options, reentrant=reentrant).to(dtype)
    fill(network, 0)
    x, y = (tensor[share] for tensor in data(dtype))
    objective = aux.Objective(aux.Term(F.cross_entropy), feature.terms())
    model = wrap(network, setting)
    if setting == ATTACHED_FIRST:
        objective.attach(network)
        model = compiled(network)
    if setting == COMPILED_FIRST:
        model = compiled(network)
        model(x[: PIECE if feature.training == "pieces" else None])  # for another shape it would be compiled anew
    if feature.build:
        objective.build(model, x)
    objective.to(dtype)
    fill(objective, 1)
    return getattr(Library(network, model, objective, mode), feature.training)(x, y)


class Library:
    """The ways to train, with the library."""

    def __init__(self, network: Network, model: Any, objective: aux.Objective, mode: Any) -> None:
        self.network, self.model, self.objective, self.mode = network, model, objective, mode
        self.modules = {"network": network, "heads": objective}

    def report(self, x: Tensor, y: Tensor, **more: Any) -> aux.Report:
        with self.mode:
            return self.objective(self.model, x, y, **more)

    def gradients(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        self.report(x, y).total.backward()
        return gradients_of(self.modules)

    def silence(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        optimizer = sgd(self.modules)
        for step in range(STEPS):
            self.report(x, y, progress=step / STEPS).total.backward()
            optimizer.step()
            optimizer.zero_grad()
        return weights_of(self.modules)

    def pieces(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        pieces = [(x[:PIECE], y[:PIECE]), (x[PIECE:], y[PIECE:])]
        counts = self.objective.counts(y for _, y in pieces)
        for place, (x, y) in enumerate(pieces, 1):
            with gradients_at_home(self.model, stay=place < len(pieces)):
                self.report(x, y, counts=counts).total.backward()
        return gradients_of(self.modules)

    def diagnosis(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        self.report(x, y).total.backward()  # a diagnosis comes after ordinary steps; a compiled model remembers them
        for module in self.modules.values():
            module.zero_grad()
        report = self.report(x, y)
        numbers = aux.diagnose(report, aux.by_depth(self.model, "blocks.*")).as_dict()
        report.total.backward()
        facts = [*numbers["groups"]["inner"].values(), numbers["main_share"]]
        norms = [*numbers["gradient_norms_without"].values(), *numbers["gradient_norms"].values()]
        return {"diagnosis": torch.tensor(facts + norms, dtype=torch.float64)} | gradients_of(self.modules)

    def gate(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        optimizer = sgd(self.modules)
        trunk = self.network.trunk()
        mine = set(map(id, trunk))
        others = [p for p in self.network.parameters() if id(p) not in mine]
        self.report(x, y).total.backward()  # as before a diagnosis
        optimizer.zero_grad()
        for _ in range(2):  # DDP complains in the next forward pass, if at all
            aux.gradients.backward(self.report(x, y), trunk, aux.gradients.cosine_gate, others)
            optimizer.step()
            optimizer.zero_grad()
        return weights_of(self.modules)


# The same by hand.


def run_by_hand(feature: Feature, setting: str) -> dict[str, Tensor]:
    """The tensors that `run` is to give, over the whole batch, in one process."""
    dtype, mode = precision(setting)
    network, own = Network(**feature.options).to(dtype), head().to(dtype)
    fill(network, 0)
    fill(own, 1)
    return getattr(ByHand(feature, network, own, mode), feature.training)(*data(dtype))


class ByHand:
    """The ways to train, written out."""

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

    def silence(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        optimizer = sgd(self.modules)
        for step in range(STEPS):
            main, inner = self.losses(x, y)
            (main + inner if step < STEPS / 2 else main).backward()
            optimizer.step()
            optimizer.zero_grad()
        return weights_of(self.modules)

    def pieces(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        for piece in (slice(PIECE), slice(PIECE, None)):
            part = len(y[piece]) / len(y)
            sum(part * loss for loss in self.losses(x[piece], y[piece])).backward()
        return gradients_of(self.modules)

    def by_term(self, x: Tensor, y: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
        """The gradients of the main and the auxiliary loss, flat."""
        found = [
            torch.autograd.grad(one, parameters, retain_graph=True, allow_unused=True) for one in self.losses(x, y)
        ]
        return [torch.cat([whole(g, p).flatten() for g, p in zip(row, parameters, strict=True)]) for row in found]

    def diagnosis(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        blocks = [list(block.parameters()) for block in self.network.blocks]
        main, inner = self.by_term(x, y, [p for block in blocks for p in block])
        total = main + inner
        facts = [F.cosine_similarity(inner, main, dim=0), inner.norm() / main.norm()]
        facts += [inner @ total / (total @ total), main @ total / (total @ total)]
        norms = [piece.norm() for gradient in (main, total) for piece in gradient.chunk(2)]
        return {"diagnosis": torch.stack(facts + norms)} | self.gradients(x, y)

    def gate(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
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


def difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest, relative to the largest number in each tensor. The heads of the library have names of their own, and
    by hand there is one even where a feature has none."""
    gaps = []
    for names in ("network", "heads", "diagnosis"):
        ours = [tensor for name, tensor in found.items() if name.startswith(names)]
        theirs = [tensor for name, tensor in wanted.items() if name.startswith(names)]
        for one, other in zip(ours, theirs, strict=bool(ours) or names != "heads"):
            gaps.append(float((one - other).abs().max() / (other.abs().max() or 1)))
    return max(gaps)
