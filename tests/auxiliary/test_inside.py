"""An objective that is a submodule of its model, as in a LightningModule that is itself the network.

Under DDP and FSDP2: `inactive_inside` in two_ranks.py.
"""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from auxiliary.test_objective import term
from charladder import auxiliary as aux

X, Y = torch.randn(6, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1, 2])
OWN = ["objective.heads.own.weight", "objective.heads.own.bias", "objective.losses.scaled.scale"]
KEYS = ["a.weight", "a.bias", "out.weight", "out.bias", *OWN]


class Scaled(nn.Module):
    """A loss with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return self.scale * F.cross_entropy(prediction, target)


class Net(nn.Module):
    """Has an objective with a head of its own, a head that is the network's, and a loss with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Linear(8, 8), nn.Linear(8, 3)
        self.objective = aux.Objective(
            term(),
            {
                "own": term(tap="a", head=nn.Linear(8, 3), weight=0.5),
                "shared": term(tap="a", head=self.out, weight=0.25),
                "scaled": term(Scaled(), tap="a", head="out"),
            },
            model=self,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x).tanh())

    def loss(self, model: nn.Module | None = None) -> Tensor:
        return self.objective(self if model is None else model, X, Y).total

    def by_hand(self) -> Tensor:
        hidden, head, scale = self.a(X), self.objective.heads["own"], self.objective.losses["scaled"].scale
        main, own, shared = (F.cross_entropy(p, Y) for p in (self.out(hidden.tanh()), head(hidden), self.out(hidden)))
        return main + 0.5 * own + 0.25 * shared + scale * shared


@pytest.fixture
def net() -> Net:
    torch.manual_seed(5)
    return Net()


def test_model_with_objective_keeps_heads_in_state_dict(net):
    assert list(net.state_dict()) == KEYS
    torch.testing.assert_close(net.loss(), net.by_hand())
    net.loss().backward()
    assert list(net.state_dict()) == [name for name, _ in net.named_parameters()] == KEYS
    assert [f"objective.{name}" for name, _ in net.objective.named_parameters()] == OWN
    assert all(parameter.grad.any() for parameter in net.parameters())


def test_model_attached_at_first_call_keeps_heads():
    net = Net()
    net.objective = aux.Objective(term(), {"own": term(tap="a", head=nn.Linear(8, 3))})
    before = list(net.state_dict())
    net.loss()
    assert list(net.state_dict()) == before == KEYS[:6]


def test_two_objectives_with_a_shared_head_both_register_it(net):
    head = net.objective.heads["own"]
    net.second = aux.Objective(term(), {"own": term(tap="a", head=head)})
    net.loss()
    net.second(net, X, Y)
    assert {"objective.heads.own.weight", "second.heads.own.weight"} <= set(net.state_dict())
    assert [one is other for one, other in zip(net.second.parameters(), head.parameters(), strict=True)]


def test_heads_are_built_and_trained_with_the_model():
    net = Net()
    net.objective = aux.Objective(term(), {"own": term(tap="a", head=aux.heads.linear(3))}).build(net, X)
    assert list(net.state_dict()) == KEYS[:6] and net.training and net.objective.training
    optimizer = torch.optim.SGD(net.parameters(), 0.5)
    before = copy.deepcopy(net.state_dict())
    net.loss().backward()
    optimizer.step()
    assert all(not torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_patterns_do_not_match_modules_of_the_objective(net):
    objective = aux.Objective(term(), {"any": term(tap="*", head="out", select=lambda out: out[:, :8])})
    assert set(objective.attach(net).terms) == {"main", "any.a", "any.out"}
    with pytest.raises(aux.AuxiliaryError, match=r"no module 'objective.heads.\*'"):
        aux.Objective(term(), {"any": term(tap="objective.heads.*")}).attach(net)


@pytest.mark.parametrize("called", [False, True])
def test_deep_copy_of_model_has_its_own_attached_objective(net, called):
    if called:
        net.loss()
    again = copy.deepcopy(net)
    assert list(again.state_dict()) == KEYS
    with torch.no_grad():
        again.a.weight.mul_(2)
    again.loss().backward()
    torch.testing.assert_close(again.loss(), again.by_hand())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert len(again.a._forward_hooks) == len(net.a._forward_hooks) == 1
    torch.testing.assert_close(net.loss(), net.by_hand())
    again.objective.remove()
    assert not again.a._forward_hooks and net.a._forward_hooks


def test_averaged_model_of_model_with_objective(net):
    average = AveragedModel(net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    average.update_parameters(net)
    average.module.load_state_dict(net.state_dict())
    torch.testing.assert_close(average.module.loss(), net.loss())


def test_objective_copied_without_model_is_not_attached(net):
    alone = copy.deepcopy(net.objective)
    assert alone.taps.model is None and net.objective.taps.model is net


def test_pickled_model_has_its_objective():
    net = Net()
    again = pickle.loads(pickle.dumps(net))
    torch.testing.assert_close(again.loss(), net.loss())
    again.loss().backward()
    assert list(again.state_dict()) == KEYS
    assert all(parameter.grad is None for parameter in net.parameters())


def test_compiled_model_with_objective(net):
    torch.compiler.reset()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    expected = torch.autograd.grad(net.by_hand(), list(net.parameters()))
    net.loss(compiled).backward()
    for parameter, wanted in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted)


@pytest.mark.parametrize(
    "weight",
    [
        0.3, "inception", aux.schedules.constant(0.5), aux.schedules.until(0.5), aux.schedules.linear(0.5, 0.0),
        aux.schedules.cosine(0.5, 0.0), aux.schedules.exponential(0.5, 0.1), aux.schedules.warm_up(0.5),
        aux.schedules.step([1.0, 0.5], at=[0.5]), aux.schedules.piecewise([(0.0, 0.0), (0.5, 1.0)]),
        aux.schedules.product(aux.schedules.warm_up(0.5), aux.schedules.until(0.75)),
    ],
)  # fmt: skip
def test_objective_with_any_weight_and_head_can_be_pickled(weight):
    side = aux.Term(F.cross_entropy, tap="0", head=aux.heads.normed(3), weight=weight, layer=1, layers=2)
    objective = aux.Objective(aux.Term(F.cross_entropy), {"side": side})
    again = pickle.loads(pickle.dumps(objective))
    for progress in (0.0, 0.25, 0.5, 0.9):
        assert again.weights(progress) == objective.weights(progress)
    model, x, y = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)), torch.randn(6, 8), torch.randint(0, 3, (6,))
    assert again.build(model, x)(model, x, y, progress=0.25).total.isfinite()
