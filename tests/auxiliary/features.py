"""The rows of the table of support: what the auxiliary library can do, on a small network."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from charladder import auxiliary as aux

WIDTH, CLASSES, BATCH = 6, 3, 10
WEIGHT = 0.5  # of every auxiliary term
PIECE = 2  # the first micro-batch: unequal parts find more mistakes than equal ones
STEPS, RATE = 4, 0.5


@dataclass
class State:
    """What some blocks return; what is meant is not the first part."""

    norm: Tensor
    hidden: Tensor


class Block(nn.Module):
    def __init__(self, returns: str) -> None:
        super().__init__()
        self.linear, self.returns = nn.Linear(WIDTH, WIDTH), returns

    def forward(self, hidden: Tensor) -> Any:
        hidden = hidden + torch.tanh(self.linear(hidden))
        if self.returns == "tuple":
            return hidden, hidden.detach().norm()
        return State(hidden.detach().norm(), hidden) if self.returns == "dataclass" else hidden


def hidden_of(returned: Any) -> Tensor:
    if isinstance(returned, State):
        return returned.hidden
    return returned[0] if isinstance(returned, tuple) else returned


class Network(nn.Module):
    """Two blocks, called `rounds` times. side: a prediction from the first block, made here with parameters of its own.
    spare: a head that forward does not call. reentrant: of the checkpointing around every block; None for none."""

    def __init__(
        self,
        returns: str = "tensor",
        rounds: int = 1,
        side: bool = False,
        spare: bool = False,
        reentrant: bool | None = None,
    ) -> None:
        super().__init__()
        self.rounds, self.reentrant = rounds, reentrant
        self.first = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Block(returns) for _ in range(2))
        self.side = nn.Linear(WIDTH, CLASSES) if side else None
        self.spare = nn.Linear(WIDTH, CLASSES) if spare else None
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Any:
        states = self.states(x)
        final = self.last(states[-1])
        return final if self.side is None else {"final": final, "inner": self.side(states[0])}

    def states(self, x: Tensor) -> list[Tensor]:
        """What the blocks return, in the order of their calls."""
        hidden, states = self.first(x), []
        for _ in range(self.rounds):
            for block in self.blocks:
                hidden = self.through(block, hidden)
                states.append(hidden)
        return states

    def through(self, block: nn.Module, hidden: Tensor) -> Tensor:
        if self.reentrant is None or not self.training:
            return hidden_of(block(hidden))
        return checkpoint(lambda hidden: hidden_of(block(hidden)), hidden, use_reentrant=self.reentrant)

    def trunk(self) -> list[nn.Parameter]:
        return [*self.first.parameters(), *self.blocks.parameters()]


def fill(module: nn.Module, seed: int) -> None:
    """Numbers that depend on nothing but the seed and the place of a parameter."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) / 2)


def data(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, WIDTH, generator=draw, dtype=torch.float64)
    return x.to(dtype), torch.randint(CLASSES, (BATCH,), generator=draw)


# Features: the rows.

Losses = Callable[[Network, nn.Linear, list[Tensor], Tensor], Tensor]


@dataclass(frozen=True)
class Feature:
    """terms: the auxiliary ones. by_hand: the same, unweighted, from (network, head, states, targets).
    training: `gradients`, `silence`, `pieces`, `diagnosis` or `gate`; see Library and ByHand."""

    name: str
    terms: Callable[[], dict[str, aux.Term]]
    by_hand: Losses
    options: dict[str, Any] = field(default_factory=dict)
    training: str = "gradients"
    build: bool = False


def head() -> nn.Linear:
    return nn.Linear(WIDTH, CLASSES)


def tapped(**fields: Any) -> Callable[[], dict[str, aux.Term]]:
    """One term, called `inner`, on the first block."""
    return lambda: {
        "inner": aux.Term(
            **({"loss": F.cross_entropy, "tap": "blocks.0", "head": head(), "weight": WEIGHT} | fields),
        )
    }


def returned() -> dict[str, aux.Term]:
    return {"inner": aux.Term(F.cross_entropy, weight=WEIGHT)}


def all_calls(predictions: list[Tensor], targets: Tensor) -> Tensor:
    return sum((F.cross_entropy(one, targets) for one in predictions), torch.zeros(()))


def on_state(at: int) -> Losses:
    return lambda network, head, states, targets: F.cross_entropy(head(states[at]), targets)


def from_side(network: Network, head: nn.Linear, states: list[Tensor], targets: Tensor) -> Tensor:
    return F.cross_entropy(network.side(states[0]), targets)


FEATURES = [
    Feature("prediction that the model returns", returned, from_side, {"side": True}),
    Feature("tap with a head of its own", tapped(), on_state(0)),
    Feature(
        "tap with a head made from the shape (`build`)", tapped(head=aux.heads.linear(CLASSES)), on_state(0), build=True
    ),
    Feature(
        "taps by pattern",
        tapped(tap="blocks.*"),
        lambda network, head, states, targets: (
            F.cross_entropy(head(states[0]), targets) + F.cross_entropy(head(states[1]), targets)
        ),
    ),
    Feature(
        'head shared with the model (`head="name"`)',
        tapped(head="last"),
        lambda network, head, states, targets: F.cross_entropy(network.last(states[0]), targets),
    ),
    Feature("module called several times, `call=-1`", tapped(call=-1), on_state(2), {"rounds": 2}),
    Feature(
        'module called several times, `call="all"`',
        tapped(call="all", loss=all_calls, count=len),
        lambda network, head, states, targets: all_calls([head(states[0]), head(states[2])], targets),
        {"rounds": 2},
    ),
    Feature("tap that returns a tuple", tapped(), on_state(0), {"returns": "tuple"}),
    Feature("tap that returns a dataclass", tapped(select="hidden"), on_state(0), {"returns": "dataclass"}),
    Feature(
        "detached tap",
        tapped(detach_tap=True),
        lambda network, head, states, targets: F.cross_entropy(head(states[0].detach()), targets),
    ),
    Feature(
        "detached head",
        tapped(detach_head=True),
        lambda network, head, states, targets: F.cross_entropy(
            F.linear(states[0], head.weight.detach(), head.bias.detach()), targets
        ),
    ),
    Feature(
        "weight that falls silent in training",
        tapped(weight=aux.schedules.until(0.5, WEIGHT)),
        on_state(0),
        training="silence",
    ),
    Feature("accumulation over micro-batches (`counts=`)", tapped(), on_state(0), training="pieces"),
    Feature("diagnosis (`diagnose`)", returned, from_side, {"side": True}, training="diagnosis"),
    Feature("cosine gate (`gradients.backward`)", returned, from_side, {"side": True}, training="gate"),
]
