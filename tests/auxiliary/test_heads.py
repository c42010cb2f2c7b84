"""Heads: registration, building, training, saving and removal."""

import copy
import pickle
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auxiliary.test_objective import stack, term
from charladder import auxiliary as aux


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(5)


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 8), torch.randint(0, 3, (6,))


def test_pattern_taps_and_heads_built_from_the_shape(data):
    x, y = data
    model = stack(depth=4)
    before = copy.deepcopy(model.state_dict())
    model.layers[1].eval()
    objective = aux.Objective(
        term(), {"deep": term(tap="layers.*", head=aux.heads.normed(3), weight=lambda layer, layers: layer / layers)}
    )
    assert not list(objective.parameters())
    objective.build(model, x)
    assert len(list(objective.parameters())) == 4 * 4
    assert [m.training for m in model.layers] == [True, False, True, True]
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    report = objective(model, x, y)
    assert {n: t.weight for n, t in report.terms.items()} == {
        "main": 1.0, "deep.0": 1 / 5, "deep.1": 2 / 5, "deep.2": 3 / 5, "deep.3": 4 / 5,
    }  # fmt: skip


def test_build_does_not_change_batch_statistics_or_modes():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 2))
    before = copy.deepcopy(model.state_dict())
    aux.Objective(term(), {"a": term(tap="2", head=aux.heads.pooled(2))}).build(model, torch.randn(3, 1, 8, 8))
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert model.training and model[1].training


class AutocastInside(nn.Module):
    """Runs under autocast inside forward, as accelerate and the Trainer of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.out(self.layer(x))


class NormBeforeHalf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer, self.out = nn.LayerNorm(8), nn.Linear(8, 8).bfloat16(), nn.Linear(8, 3).bfloat16()

    def forward(self, x):
        return self.out(self.layer(self.norm(x).bfloat16()))


class Quantised(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        whole = torch.randint(-9, 9, (8, 8), dtype=torch.int8)
        self.whole, self.dtype = nn.Parameter(whole, requires_grad=False), dtype
        self.layer = nn.Identity()

    def forward(self, x):
        return self.layer(x.to(self.dtype) @ self.whole.to(self.dtype))[:, :3]


@pytest.mark.parametrize(
    ("make", "tap", "dtype"),
    [
        (NormBeforeHalf, "norm", torch.float32),
        (NormBeforeHalf, "layer", torch.bfloat16),
        (Quantised, "layer", torch.float32),
        (lambda: Quantised(torch.bfloat16), "layer", torch.bfloat16),
        (AutocastInside, "layer", torch.float32),
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)).double(), "0", torch.float64),
    ],
)
def test_built_head_has_the_dtype_of_its_input(data, make, tap, dtype):
    x, y = data[0].to(torch.float64 if dtype == torch.float64 else torch.float32), data[1]
    model = make()
    loss = term(lambda p, t: F.cross_entropy(p.float(), t))
    objective = aux.Objective(loss, {"a": term(loss.loss, tap=tap, head=aux.heads.normed(3))}).build(model, x)
    assert {p.dtype for p in objective.parameters()} == {dtype}
    objective(model, x, y).total.backward()
    assert all(p.grad.isfinite().all() for p in objective.parameters())


def test_head_built_under_autocast_has_the_dtype_of_the_model(data):
    x, _ = data
    model = stack()
    with torch.autocast("cpu", torch.bfloat16):
        objective = aux.Objective(term(), {"a": term(tap="layers.0.0", head=aux.heads.linear(3))}).build(model, x)
    assert objective.terms["a"].head.weight.dtype == torch.float32


def test_built_head_has_the_dtype_of_parameters_before_the_forward_pass(data):
    """FSDP2 with mixed precision leaves bfloat16 parameters in a model after a forward pass without gradients."""

    def lower(model, arguments):
        for layer in model:
            layer.weight, layer.bias = (nn.Parameter(p.bfloat16()) for p in (layer.weight, layer.bias))
        return arguments[0].bfloat16()

    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))
    model.register_forward_pre_hook(lower)
    objective = aux.Objective(term(), {"a": term(tap="0", head=aux.heads.linear(3))}).build(model, data[0])
    assert model[0].weight.dtype == torch.bfloat16
    assert objective.terms["a"].head.weight.dtype == torch.float32


def test_built_head_with_integer_input_keeps_its_dtype():
    model, ids = nn.Sequential(nn.Identity(), nn.Embedding(9, 3)), torch.arange(6)
    objective = aux.Objective(term(), {"a": term(tap="0", head=lambda shape: nn.Embedding(9, 3))}).build(model, ids)
    assert objective.terms["a"].head.weight.dtype == torch.float32


def test_build_needs_a_tensor_as_head_input():
    one = term(tap="0", head=aux.heads.linear(3), select=lambda returned: returned)
    with pytest.raises(aux.AuxiliaryError, match="what it would read is of type tuple; pick a tensor with Term"):
        aux.Objective(term(), {"a": one}).build(nn.Sequential(nn.LSTM(8, 3)), torch.randn(2, 8))


@pytest.mark.parametrize("detach", [{}, {"detach_tap": True}, {"detach_head": True}])
def test_head_outside_autocast_reads_input_in_its_dtype(data, detach):
    x, y = data
    model, head = AutocastInside(), nn.Linear(8, 3)
    objective = aux.Objective(term(), {"a": term(tap="layer", head=head, **detach)})
    report = objective(model, x, y)
    with torch.autocast("cpu", torch.bfloat16):
        state = model.layer(x)
    assert state.dtype == torch.bfloat16
    assert report.terms["a"].value == float(F.cross_entropy(head(state.float()), y).detach())
    report.total.backward()
    assert (head.weight.grad is None) == ("detach_head" in detach)


def test_head_under_autocast_reads_unconverted_input(data):
    x, y = data
    seen = []
    head = nn.Linear(8, 3)
    head.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].dtype))
    objective = aux.Objective(term(), {"a": term(tap="layer", head=head)})
    with torch.autocast("cpu", torch.bfloat16):
        objective(AutocastInside(), x, y)
    assert seen == [torch.bfloat16]


def test_all_tensors_of_a_head_input_are_converted():
    """An LSTM returns a tuple in a tuple. Integers are not converted."""
    seen = []

    class Reads(LastState):
        def forward(self, returned):
            seen.extend([returned.state[1][0].dtype, returned.place.dtype])
            return self.out(returned.state[1][0][0])

    class Returns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.LSTM(4, 8, batch_first=True).bfloat16()

        def forward(self, x):
            return StateAndPlace(self.inner(x), torch.arange(3))

    one = term(tap="0", head=Reads(), select=lambda out: out)
    objective = aux.Objective(term(lambda out: out.state[0].sum() * 0, target=None, select=lambda out: out), {"a": one})
    objective(nn.Sequential(Returns()), torch.randn(3, 5, 4).bfloat16(), torch.zeros(3, dtype=torch.long))
    assert seen == [torch.float32, torch.int64]


@dataclass
class StateAndPlace:
    state: tuple
    place: Tensor


def test_shared_and_model_heads_are_registered_once(data):
    x, y = data
    model, shared = stack(), nn.Linear(8, 3)
    objective = aux.Objective(
        term(),
        {
            "a": term(tap="layers.0", head=shared),
            "b": term(tap="layers.1", head=shared),
            "of_model": term(tap="layers.1", head=model.out),
            "by_name": term(tap="layers.0", head="out"),
            "tied": term(tap="layers.0", head=nn.Linear(8, 3)),
        },
    )
    objective.terms["tied"].head.weight = model.out.weight
    objective.attach(model)
    assert [
        p is q
        for p, q in zip(objective.parameters(), [*shared.parameters(), objective.terms["tied"].head.bias], strict=True)
    ]
    assert set(objective.state_dict()) == {"heads.a.weight", "heads.a.bias", "heads.tied.bias"}
    together = torch.optim.SGD([{"params": list(model.parameters())}, {"params": list(objective.parameters())}], 0.1)
    report = objective(model, x, y)
    report.total.backward()
    together.step()
    again = aux.Objective(term(), {"a": term(tap="layers.0", head=nn.Linear(8, 3))})
    again.load_state_dict({k: v for k, v in objective.state_dict().items() if k.startswith("heads.a.")})
    assert torch.equal(again.terms["a"].head.weight, shared.weight)


class Normed(nn.Module):
    """A model with a norm that has buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.out = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.norm(self.layer(x)))


def make_sharing_objective(model: nn.Module) -> aux.Objective:
    """A head with a norm of the model, and a head with a weight of the model."""
    tied = nn.Linear(8, 3)
    tied.weight = model.out.weight
    heads = {"norm": nn.Sequential(model.norm, nn.Linear(8, 3)), "tied": tied}
    return aux.Objective(term(), {name: term(tap="layer", head=head) for name, head in heads.items()}, model=model)


def test_state_dict_of_partly_shared_head_has_only_its_own_tensors():
    objective = make_sharing_objective(Normed())
    own = {"heads.norm.1.weight", "heads.norm.1.bias", "heads.tied.bias"}
    assert set(objective.state_dict()) == {name for name, _ in objective.named_parameters()} == own
    assert set(nn.ModuleDict({"o": objective}).state_dict()) == {f"o.{name}" for name in own}


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_loading_heads_does_not_change_shared_tensors(assign, nested):
    model, other = Normed(), Normed()
    objective, source = make_sharing_objective(model), make_sharing_objective(other)
    before = copy.deepcopy(model.state_dict())
    holder, saved = (nn.ModuleDict({"o": one}) if nested else one for one in (objective, source))
    assert not any(holder.load_state_dict(saved.state_dict(), assign=assign))
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert objective.terms["tied"].head.weight is model.out.weight
    assert torch.equal(objective.terms["tied"].head.bias, source.terms["tied"].head.bias)
    assert torch.equal(objective.terms["norm"].head[1].weight, source.terms["norm"].head[1].weight)


def test_shared_tensors_in_an_old_state_dict_are_ignored():
    """Version 0.1 saved shared tensors, and so does an objective that is not attached."""
    model, other = Normed(), Normed()
    objective, source = make_sharing_objective(model), make_sharing_objective(other)
    before = copy.deepcopy(model.state_dict())
    source.remove()
    state = source.state_dict()
    assert "heads.tied.weight" in state and "heads.norm.0.running_mean" in state
    objective.load_state_dict(state)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert torch.equal(objective.terms["tied"].head.bias, source.terms["tied"].head.bias)


def test_model_with_objective_saves_shared_tensors_once():
    model = Normed()
    model.objective = make_sharing_objective(model)
    state = model.state_dict()
    assert len(state) == len(Normed().state_dict()) + 3
    again = Normed()
    again.objective = make_sharing_objective(again)
    again.load_state_dict(state)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in state.items())


def test_heads_have_the_training_mode_of_the_objective(data):
    """A probe trains with dropout on a model in evaluation mode; for validation, both are in evaluation mode."""
    x, y = data
    model, head = Normed(), nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 3))
    objective = aux.Objective(term(), {"a": term(tap="layer", head=head)}, model=model)

    def value():
        return objective(model, x, y).terms["a"].value

    model.eval()
    assert len({value() for _ in range(5)}) > 1
    objective.eval()
    assert len({value() for _ in range(5)}) == 1
    assert value() == F.cross_entropy(head[1](model.layer(x)), y).item()


def test_training_mode_of_objective_does_not_change_the_model():
    model = Normed()
    objective = make_sharing_objective(model)
    for mode in (False, True):
        model.train(not mode)
        assert objective.train(mode) is objective
        assert model.norm.training is not mode
        assert objective.terms["norm"].head[1].training is mode
    model.objective = objective
    model.train()
    assert all(module.training for module in model.modules())
    model.eval()
    assert not any(module.training for module in model.modules())


def test_parameters_of_loss_modules_are_trained(data):
    x, y = data

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, p, t):
            return self.scale * F.cross_entropy(p, t)

    objective = aux.Objective(term(), {"a": term(Scaled(), select=lambda out: out)})
    assert [n for n, _ in objective.named_parameters()] == ["losses.a.scale"]
    objective(stack(), x, y).total.backward()
    assert next(objective.parameters()).grad is not None


def test_detached_taps_and_heads(data):
    x, y = data
    model, head = stack(), nn.Linear(8, 3)
    for detach, trained in (("detach_tap", head), ("detach_head", model.layers[0])):
        objective = aux.Objective(term(weight=0.0), {"a": term(tap="layers.0", head=head, **{detach: True})})
        parameters = [*model.layers[0].parameters(), *head.parameters()]
        gradients = torch.autograd.grad(objective(model, x, y).total, parameters, allow_unused=True)
        reached = {id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None}
        assert reached == {id(p) for p in trained.parameters()}
        objective.remove()


@pytest.mark.parametrize("fails", [False, True])
def test_remove_restores_the_model(data, fails):
    x, y = data
    model = stack()
    before, keys = copy.deepcopy(model.state_dict()), {name: set(vars(m)) for name, m in model.named_modules()}
    objective = aux.Objective(term(), {"a": term(tap="layers.0", head=nn.Linear(9 if fails else 8, 3), weight=0.5)})
    if fails:
        with pytest.raises(aux.AuxiliaryError), objective:
            objective(model, x, y)
    else:
        with objective:
            objective(model, x, y).total.backward()
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert {name: set(vars(m)) for name, m in model.named_modules()} == keys
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


def test_copied_model_does_not_record_taps(data):
    x, y = data
    model = stack()
    objective = aux.Objective(term(), {"a": term(tap="layers.0", head=nn.Linear(8, 3))}, model=model)
    average = copy.deepcopy(model)
    average(x)
    assert objective(model, x, y).terms["a"].value > 0
    assert torch.equal(average(x), model(x))


def test_plain_forward_pass_runs_no_head(data):
    x, y = data
    model, calls, head = stack(), [], nn.Linear(8, 3)
    head.register_forward_hook(lambda *_: calls.append(1))
    objective = aux.Objective(term(), {"a": term(tap="layers.0", head=head)}, model=model)
    model(x)
    assert not calls and not objective.taps.recorder.outputs
    with torch.no_grad():
        assert not objective(model, x, y).total.requires_grad


def test_term_names_may_be_module_attribute_names(data):
    x, y = data
    names = ["type", "half", "values", "a.b", "a_b"]
    objective = aux.Objective(term(), {name: term(tap="layers.0", head=nn.Linear(8, 3)) for name in names})
    assert set(objective(stack(), x, y).terms) == {"main", *names}
    keys = list(objective.heads)
    assert keys[:3] == ["type_", "half_", "values_"]
    assert len(set(keys)) == 5 and all(key.startswith("a_b_") for key in keys[3:])


@pytest.mark.parametrize(
    "names", [["a.b", "a_b"], ["a.b.c", "a.b_c", "a_b.c"], ["type", "type_"], ["x.train", "x_train"]]
)
def test_heads_keep_their_weights_when_terms_are_reordered(names):
    def make(order):
        return aux.Objective(term(), {name: term(tap="layers.0", head=nn.Linear(8, 3)) for name in order})

    first, second = make(names), make(names[::-1])
    second.load_state_dict(first.state_dict())
    for name in names:
        assert torch.equal(first.terms[name].head.weight, second.terms[name].head.weight)


def test_head_keys_in_state_dict():
    """The keys of saved objectives: the name of the term, with `_` for `.`."""
    names = ["side", "layer.0", "layer.1", "layer10", "half"]
    objective = aux.Objective(term(), {name: term(tap="layers.0", head=nn.Linear(8, 3)) for name in names})
    assert list(objective.heads) == ["side", "layer_0", "layer_1", "layer10", "half_"]


def test_saved_head_is_not_loaded_into_a_colliding_key():
    alone = aux.Objective(term(), {"a.b": term(tap="layers.0", head=nn.Linear(8, 3))})
    both = aux.Objective(term(), {n: term(tap="layers.0", head=nn.Linear(8, 3)) for n in ("a_b", "a.b")})
    found = both.load_state_dict(alone.state_dict(), strict=False)
    assert found.unexpected_keys == ["heads.a_b.weight", "heads.a_b.bias"] and len(found.missing_keys) == 4


def test_head_of_model_modules_has_no_parameters_of_its_own(data):
    x, y = data
    model = stack()
    objective = aux.Objective(
        term(), {"a": term(tap="layers.0", head=nn.Sequential(nn.Tanh(), model.out))}, model=model
    )
    assert not list(objective.parameters()) and not objective.state_dict()
    objective(model, x, y).total.backward()
    assert model.out.weight.grad is not None


def test_heads_built_after_model_change_are_trained(data):
    """A new head may get the address, and so the id, of a freed parameter of the model."""
    x, _ = data
    for _ in range(30):
        model = stack()
        objective = aux.Objective(term(), {"a": term(tap="layers.0", head=aux.heads.linear(3))}, model=model)
        model.out = nn.Linear(8, 3)
        objective.build(model, x)
        assert len(list(objective.parameters())) == 2


def test_copies_and_pickles_are_not_attached(data):
    x, y = data
    model = stack()
    objective = aux.Objective(
        term(), {"a": term(tap="layers.0", head=nn.Linear(8, 3), weight=aux.schedules.until(0.5))}, model=model
    )
    expected = objective(model, x, y, progress=0.1).total
    objective.remove()
    for again in (copy.deepcopy(objective), copy.deepcopy(aux.Objective(term()))):
        assert again.taps.model is None and torch.isfinite(again(model, x, y, progress=0.1).total)
        again.remove()
    plain = aux.Objective(term(), {"a": term(tap="layers.0", head=nn.Linear(8, 3), weight="inception")})
    before = plain(model, x, y).total
    plain.remove()
    assert torch.equal(pickle.loads(pickle.dumps(plain))(model, x, y).total, before)
    assert torch.equal(copy.deepcopy(objective)(copy_of_stack(model), x, y, progress=0.1).total, expected)


def copy_of_stack(model: nn.Module) -> nn.Module:
    again = stack()
    again.load_state_dict(model.state_dict())
    return again


def test_detached_tap_with_nested_output():
    model = nn.LSTM(4, 8, batch_first=True)
    head = LastState()
    one = term(tap="0", head=head, select=lambda out: out, detach_tap=True)
    objective = aux.Objective(term(lambda p: p.sum() * 0, target=None, select=0), {"a": one})
    objective(nn.Sequential(model), torch.randn(3, 5, 4), torch.zeros(3, dtype=torch.long)).total.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert head.out.weight.grad.any()


class LastState(nn.Module):
    """Reads the last state from the output of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 3)

    def forward(self, returned):
        return self.out(returned[1][0][0])


def test_backward_with_every_term_inactive(data):
    x, y = data
    aux.Objective(term(weight=0.0))(stack(), x, y).total.backward()


def test_objective_without_taps_accepts_several_models(data):
    x, y = data
    objective = aux.Objective(term(nn.CrossEntropyLoss()))
    assert objective(stack(), x, y).value > 0 and objective(stack(), x, y).value > 0
    assert objective(lambda x: x[:, :3], x, y).value > 0


def test_main_prediction_is_found_by_name(data):
    x, y = data
    report = aux.Objective(term(), {"side": term()})(lambda x: {"side": x[:, 3:6], "main": x[:, :3]}, x, y)
    assert report.terms["main"].value == float(F.cross_entropy(x[:, :3], y))
