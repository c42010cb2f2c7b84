"""The rows of the table in docs/support.md: features of the auxiliary library on a small network."""

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
FIRST_MICRO_BATCH = 2  # examples; micro-batches of different sizes, because equal sizes hide wrong divisors
STEPS, RATE = 4, 0.5


@dataclass
class State:
    """The output of some blocks. The hidden state is not the first field."""

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
    """Two blocks, called `rounds` times. side: also returns a prediction from the first block. spare: has a head that
    forward does not call. reentrant: `use_reentrant` of the checkpoint around every block; None for no checkpoint."""

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
        """The outputs of the blocks, in the order of their calls."""
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


def fill_parameters(module: nn.Module, seed: int) -> None:
    """Sets parameters to random numbers that depend only on the seed and the order of the parameters."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) / 2)


def data(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, WIDTH, generator=draw, dtype=torch.float64)
    return x.to(dtype), torch.randint(CLASSES, (BATCH,), generator=draw)


class Captured(aux.Objective):
    """Its call is that of a loop that runs the model itself."""

    def forward(self, model: Any, x: Tensor, targets: Any, **more: Any) -> aux.Report:
        with self.capture(model):
            output = model(x)
        return self.from_output(output, targets, **more)


# Features: the rows.

Losses = Callable[[Network, nn.Linear, list[Tensor], Tensor], Tensor]


@dataclass(frozen=True)
class Feature:
    """terms: the auxiliary terms. by_hand: their loss without weight, from (network, head, states, targets).
    training: the name of a method of LibraryTrainer and HandWrittenTrainer."""

    name: str
    terms: Callable[[], dict[str, aux.Term]]
    by_hand: Losses
    options: dict[str, Any] = field(default_factory=dict)
    training: str = "gradients"
    build: bool = False


def head() -> nn.Linear:
    return nn.Linear(WIDTH, CLASSES)


def tapped(**fields: Any) -> Callable[[], dict[str, aux.Term]]:
    """A function that makes one term, `inner`, on the first block."""
    return lambda: {
        "inner": aux.Term(
            **({"loss": F.cross_entropy, "tap": "blocks.0", "head": head(), "weight": WEIGHT} | fields),
        )
    }


def returned() -> dict[str, aux.Term]:
    return {"inner": aux.Term(F.cross_entropy, weight=WEIGHT)}


def all_calls(predictions: list[Tensor], targets: Tensor) -> Tensor:
    return sum((F.cross_entropy(one, targets) for one in predictions), torch.zeros(()))


def loss_of_state(at: int) -> Losses:
    return lambda network, head, states, targets: F.cross_entropy(head(states[at]), targets)


def loss_of_side(network: Network, head: nn.Linear, states: list[Tensor], targets: Tensor) -> Tensor:
    return F.cross_entropy(network.side(states[0]), targets)


def kl_by_hand(logits: Tensor, target: Tensor) -> Tensor:
    """The mean of KL(softmax(target) || softmax(logits)), in at least float32, without a gradient into the target."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    log_p, log_q = logits.to(wide).log_softmax(-1), target.detach().to(wide).log_softmax(-1)
    return (log_q.exp() * (log_q - log_p)).sum(-1).mean()


def to_own_output(network: Network, head: nn.Linear, states: list[Tensor], targets: Tensor) -> Tensor:
    return kl_by_hand(head(states[0]), network.last(states[-1]))


def two_parts(logits: Tensor, targets: Tensor) -> dict[str, Any]:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return {"class": F.cross_entropy(logits, targets, reduction="none"), "size": (wide.square().sum(), wide.numel())}


def count_two_parts(targets: Tensor) -> dict[str, float]:
    return {"class": len(targets), "size": CLASSES * len(targets)}


def parts_by_hand(network: Network, head: nn.Linear, states: list[Tensor], targets: Tensor) -> Tensor:
    parts = two_parts(head(states[0]), targets)
    return parts["class"].mean() + 0.1 * parts["size"][0] / parts["size"][1]


def balance() -> dict[str, aux.Term]:
    """A router for experts, as many as there are classes."""
    return {"inner": aux.presets.load_balance(2, over_ranks=True, tap="blocks.0", head=head(), weight=WEIGHT)}


def balance_by_hand(network: Network, head: nn.Linear, states: list[Tensor], targets: Tensor) -> Tensor:
    logits = head(states[0])
    p = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
    chosen = F.one_hot(p.topk(2).indices, CLASSES).sum(1).to(p)
    return CLASSES * (chosen.mean(0) * p.mean(0)).sum()


def teacher() -> nn.Linear:
    network = nn.Linear(WIDTH, CLASSES).double()
    fill_parameters(network, 2)
    return network


def labels_of(targets: Any) -> Tensor:
    """The labels in the targets of a term without one of its own: in the Trainer of transformers, a batch."""
    return targets if isinstance(targets, Tensor) else targets["labels"]


def count_labels(targets: Any) -> int:
    return len(labels_of(targets))


def one_hot(targets: Any) -> Tensor:
    return F.one_hot(labels_of(targets), WIDTH).double()


FEATURES = [
    Feature("prediction that the model returns", returned, loss_of_side, {"side": True}),
    Feature("tap with a head of its own", tapped(), loss_of_state(0)),
    Feature(
        "tap with a head made from the shape (`build`)",
        tapped(head=aux.heads.linear(CLASSES)),
        loss_of_state(0),
        build=True,
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
    Feature("module called several times, `call=-1`", tapped(call=-1), loss_of_state(2), {"rounds": 2}),
    Feature(
        'module called several times, `call="all"`',
        tapped(call="all", loss=all_calls, count=len),
        lambda network, head, states, targets: all_calls([head(states[0]), head(states[2])], targets),
        {"rounds": 2},
    ),
    Feature("tap that returns a tuple", tapped(), loss_of_state(0), {"returns": "tuple"}),
    Feature("tap that returns a dataclass", tapped(select="hidden"), loss_of_state(0), {"returns": "dataclass"}),
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
        "target from another module (`tapped`)",
        tapped(loss=aux.losses.kl, target=aux.tapped("last")),
        to_own_output,
    ),
    Feature(
        "target from the model's output (`returned`)",
        tapped(loss=aux.losses.kl, target=aux.returned()),
        to_own_output,
    ),
    Feature(
        "target from another network (`frozen`)",
        tapped(loss=aux.losses.kl, target=aux.frozen(teacher(), inputs=one_hot)),
        lambda network, head, states, targets: kl_by_hand(head(states[0]), teacher()(one_hot(targets))),
    ),
    Feature(
        "target from another module, over micro-batches",
        tapped(loss=aux.losses.kl, target=aux.tapped("last"), count=count_labels),
        to_own_output,
        training="micro_batches",
    ),
    Feature(
        "loss with named parts, over micro-batches",
        tapped(loss=two_parts, parts={"class": 1.0, "size": 0.1}, count=count_two_parts),
        parts_by_hand,
        training="micro_batches",
    ),
    Feature("loss of a router over all processes (`presets.load_balance`)", balance, balance_by_hand),
    Feature(
        "weight that becomes 0 in training",
        tapped(weight=aux.schedules.until(0.5, WEIGHT)),
        loss_of_state(0),
        training="inactive_steps",
    ),
    Feature("accumulation over micro-batches (`counts=`)", tapped(), loss_of_state(0), training="micro_batches"),
    Feature("diagnosis (`diagnose`)", returned, loss_of_side, {"side": True}, training="diagnosis"),
    Feature("cosine gate (`gradients.backward`)", returned, loss_of_side, {"side": True}, training="gated_steps"),
]
