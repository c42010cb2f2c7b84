"""The objective on several models, against a hand-written total."""

import gc
import threading
import weakref
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auxiliary.five_models import MODELS
from charladder import auxiliary as aux


def term(loss=F.cross_entropy, **fields) -> aux.Term:
    return aux.Term(loss, **fields)


def stack(depth: int = 3, width: int = 8, classes: int = 3) -> nn.Module:
    """A model with layers.0, layers.1 ... and a last layer, `out`."""
    layers = nn.Sequential(*[nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth)])
    return nn.Sequential(OrderedDict(layers=layers, out=nn.Linear(width, classes)))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(5)


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 8), torch.randint(0, 3, (6,))


@pytest.mark.parametrize("name", MODELS)
def test_gradients_match_hand_written_total_bitwise(name):
    case = MODELS[name]()
    weights = {tap: 0.3 + 0.25 * place for place, tap in enumerate(case.heads)}
    terms = {
        tap: term(case.loss, tap=tap, head=head, weight=weights[tap], select=case.select)
        for tap, head in case.heads.items()
    }
    objective = aux.Objective(term(case.loss, select=case.main), terms)
    parameters = [*case.model.parameters(), *objective.parameters()]
    assert len(parameters) == len({id(p) for p in parameters})
    by_hand = case.by_hand(weights)
    expected = torch.autograd.grad(by_hand, parameters, allow_unused=True)
    report = objective(case.model, case.inputs, case.targets)
    got = torch.autograd.grad(report.total, parameters, allow_unused=True)
    assert torch.equal(report.total, by_hand)
    for mine, theirs in zip(got, expected, strict=True):
        assert (mine is None) == (theirs is None)
        assert mine is None or torch.equal(mine, theirs)
    assert any(g is not None and g.abs().sum() > 0 for g in got[-2:])


class Predicts(nn.Module):
    """Returns its predictions in one of several containers."""

    def __init__(self, shape: str) -> None:
        super().__init__()
        self.shape = shape
        self.a, self.b, self.c = nn.Linear(8, 3), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        final, first, second = self.a(x), self.b(x), self.c(x)
        return {
            "pair": lambda: (final, [first, second]),
            "flat": lambda: (final, first, second),
            "names": lambda: (final, {"second": second, "first": first}),
            "mapping": lambda: {"main": final, "second": second, "first": first},
            "dataclass": lambda: Named(final, second, first),
        }[self.shape]()


@dataclass
class Named:
    logits: Tensor
    second: Tensor
    first: Tensor


@pytest.mark.parametrize("shape", ["pair", "flat", "names", "mapping", "dataclass"])
def test_predictions_returned_by_the_model(shape, data):
    x, y = data
    model = Predicts(shape)
    objective = aux.Objective(term(), {"first": term(weight=0.4), "second": term(weight=0.8)})
    report = objective(model, x, y)
    by_hand = (
        F.cross_entropy(model.a(x), y) + 0.4 * F.cross_entropy(model.b(x), y) + 0.8 * F.cross_entropy(model.c(x), y)
    )
    assert torch.equal(report.total, by_hand)
    assert report.terms["second"].value == float(F.cross_entropy(model.c(x), y).detach())
    assert report.value == pytest.approx(float(by_hand.detach()))
    assert [t.weight for t in report.terms.values()] == [1.0, 0.4, 0.8]
    assert torch.equal(objective.from_output(model(x), y).total, by_hand)


def test_targets_losses_and_masks_by_term(data):
    x, _ = data
    model = Predicts("pair")
    y = {"main": torch.randint(0, 3, (6,)), "wave": torch.randn(6, 3), "mask": torch.tensor([1, 1, 0, 1, 0, 0])}
    objective = aux.Objective(
        term(),
        {
            "mean": term(F.mse_loss, target="wave", weight=0.5),
            "each": term(lambda p, t: (p - t).abs(), target=lambda all: all["wave"], mask="mask", weight=0.25),
        },
    )
    report = objective(model, x, y)
    each = (model.c(x) - y["wave"]).abs().mean(1)[y["mask"].bool()].mean()
    expected = F.cross_entropy(model.a(x), y["main"]) + 0.5 * F.mse_loss(model.b(x), y["wave"]) + 0.25 * each
    torch.testing.assert_close(report.total, expected)
    assert [int(t.count) for t in report.terms.values()] == [6, 18, 3]
    assert report.terms["each"].value == pytest.approx(float(each.detach()))


def test_loss_without_target_that_returns_a_pair(data):
    x, y = data
    objective = aux.Objective(
        term(), {"small": term(lambda p: (p.square().sum(), p.numel()), target=None, select=0, weight=0.01)}
    )
    model = Predicts("flat")
    report = objective(model, x, y)
    assert report.terms["small"].value == pytest.approx(float(model.a(x).square().mean().detach()))
    assert report.terms["small"].count == 18


def test_ignored_labels_do_not_count(data):
    x, _ = data
    y = torch.tensor([0, -100, 2, -100, -100, 1])
    model = stack()
    mean = aux.Objective(term())(model, x, y)
    each = aux.Objective(term(lambda p, t: F.cross_entropy(p, t, reduction="none")))(model, x, y)
    assert int(mean.terms["main"].count) == int(each.terms["main"].count) == 3
    torch.testing.assert_close(mean.total, each.total)
    nothing = aux.Objective(term(lambda p, t: F.cross_entropy(p, t, reduction="none")))(model, x, y.fill_(-100))
    assert float(nothing.total.detach()) == 0


def test_nan_in_masked_elements_has_no_effect(data):
    x, _ = data
    model = stack(classes=1)
    target, mask = (
        torch.tensor([1.0, torch.nan, 2, 3, torch.nan, 4])[:, None],
        torch.tensor([1, 0, 1, 1, 0, 1])[:, None],
    )
    objective = aux.Objective(term(lambda p, t: (p - t).abs(), target="y", mask="m"))
    report = objective(model, x, {"y": target, "m": mask})
    report.total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("pieces", [[2, 4], [1, 2, 3], [6]])
def test_accumulation_divides_by_the_count_of_the_full_batch(pieces, data):
    x, y = data[0].double(), torch.tensor([0, -100, 2, 1, -100, 1])
    model = stack().double()
    heads = {"a": nn.Linear(8, 3).double(), "b": nn.Linear(8, 3).double()}
    none = partial(F.cross_entropy, reduction="none")
    objective = aux.Objective(
        term(),
        {
            "a": term(tap="layers.0", head=heads["a"], weight=0.3),
            "b": term(none, tap="layers.1", head=heads["b"], weight=0.7),
        },
    )
    parameters = [*model.parameters(), *objective.parameters()]
    whole = objective(model, x, y)
    expected = torch.autograd.grad(whole.total, parameters)
    parts = list(zip(x.split(pieces), y.split(pieces), strict=True))
    counts = objective.counts(targets for _, targets in parts)
    reports = []
    for piece, targets in parts:
        reports.append(objective(model, piece, targets, counts=counts))
        reports[-1].total.backward()
    merged = aux.merge(reports)
    for parameter, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-12, atol=1e-14)
    for name, one in whole.terms.items():
        assert merged.terms[name].value == pytest.approx(one.value, rel=1e-12)
        assert int(merged.terms[name].count) == int(one.count) == 4


def test_inactive_term_calls_no_head_and_keeps_no_output(data):
    x, y = data
    model, calls, alive = stack(), [], []
    head = nn.Linear(8, 3)
    head.register_forward_hook(lambda *_: calls.append(1))
    objective = aux.Objective(
        term(), {"low": term(tap="layers.0", head=head, weight=aux.schedules.until(0.5))}, model=model
    )
    model.layers[0].register_forward_hook(lambda m, a, out: alive.append(weakref.ref(out)))
    report = objective(model, x, y, progress=0.4)
    assert len(calls) == 1 and set(report.terms) == {"main", "low"}
    with torch.no_grad():  # only a tap could keep the layer's output alive
        report = objective(model, x, y, progress=0.5)
    gc.collect()
    assert len(calls) == 1 and set(report.terms) == {"main"}
    assert alive[-1]() is None
    assert objective.taps.recorder.outputs == {}
    report = objective(model, x, y, progress=0.5)
    assert torch.equal(report.total, F.cross_entropy(model(x), y))
    report.total.backward()
    assert head.weight.grad is None


def test_intermediate_terms_leave_out_the_last_layer(data):
    x, y = data
    model = stack(depth=4)
    objective = aux.Objective(
        term(), aux.intermediate_terms(model, "layers.*", F.cross_entropy, head=aux.heads.linear(3))
    ).build(model, x)
    seen = {t: set(objective(model, x, y, progress=t).terms) - {"main"} for t in (0.0, 0.2, 0.3, 0.4, 0.5)}
    assert seen == {
        0.0: {"layer1", "layer2", "layer3"}, 0.2: {"layer2", "layer3"}, 0.3: {"layer3"}, 0.4: set(), 0.5: set(),
    }  # fmt: skip


def test_preset_as_weight_of_the_main_term(data):
    x, y = data
    model = stack(depth=4)
    terms = aux.intermediate_terms(model, "layers.*", F.cross_entropy, head=aux.heads.linear(3), weight="inter_ctc")
    report = aux.Objective(term(weight="inter_ctc"), terms).build(model, x)(model, x, y)
    assert {n: round(t.weight, 9) for n, t in report.terms.items()} == {
        "main": 0.7,
        "layer1": 0.1,
        "layer2": 0.1,
        "layer3": 0.1,
    }


class CallsLayerThreeTimes(nn.Module):
    """Calls one layer three times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        for _ in range(3):
            x = torch.tanh(self.layer(x))
        return self.out(x)


def test_tapped_module_called_several_times(data):
    x, y = data
    model, head = CallsLayerThreeTimes(), nn.Linear(8, 3)
    states, state = [], x
    for _ in range(3):
        states.append(model.layer(state))
        state = torch.tanh(states[-1])
    for call, wanted in ((0, states[0]), (1, states[1]), (-1, states[2])):
        with aux.Objective(term(), {"a": term(tap="layer", head=head, call=call)}) as objective:
            assert objective(model, x, y).terms["a"].value == float(F.cross_entropy(head(wanted), y).detach())
    every = term(lambda several, t: sum(F.cross_entropy(p, t) for p in several) / 3, tap="layer", head=head, call="all")
    report = aux.Objective(term(), {"a": every})(model, x, y)
    expected = sum(float(F.cross_entropy(head(s), y).detach()) for s in states) / 3
    assert report.terms["a"].value == pytest.approx(expected)


class OnlyLastCallHasGradients(CallsLayerThreeTimes):
    """Has gradients in the last of three calls only; the outputs of the others are changed in place."""

    def forward(self, x):
        with torch.no_grad():
            for _ in range(2):
                x = torch.tanh_(self.layer(x))
        return self.out(torch.tanh(self.layer(x)))


def test_only_the_selected_call_needs_gradients(data):
    x, y = data
    model, head = OnlyLastCallHasGradients(), nn.Linear(8, 3)
    with torch.no_grad():
        state = torch.tanh(model.layer(torch.tanh(model.layer(x))))
    wanted = torch.autograd.grad(F.cross_entropy(head(model.layer(state)), y), [*model.layer.parameters()])
    for call in (-1, 2):
        objective = aux.Objective(term(weight=0.0), {"a": term(tap="layer", head=head, call=call)})
        for one, other in zip(
            torch.autograd.grad(objective(model, x, y).total, [*model.layer.parameters()]), wanted, strict=True
        ):
            assert torch.equal(one, other)
        objective.remove()


def test_inputs_as_tuples_and_mappings(data):
    _, y = data

    class Two(nn.Module):
        def forward(self, a, b):
            return a + b

    a, b = torch.randn(6, 3), torch.randn(6, 3)
    objective = aux.Objective(term())
    assert torch.equal(objective(Two(), (a, b), y).total, objective(Two(), {"b": b, "a": a}, y).total)
    assert torch.equal(objective(lambda x: x, a, y).total, F.cross_entropy(a, y))


def test_weight_function_gets_arguments_by_name(data):
    x, y = data
    seen = []

    def weight(step, layers, layer, main, progress):
        seen.append((step, layer, layers, main, progress))
        return 0.5

    model = stack()
    place = {"layer": 2, "layers": 5}
    objective = aux.Objective(term(), {"a": term(tap="layers.0", head="out", weight=weight, **place)})
    assert objective(model, x, y, progress=0.25, step=7).terms["a"].weight == 0.5
    assert seen == [(7, 2, 5, False, 0.25)]
    positional = aux.Objective(term(), {"a": term(select=lambda out: out, weight=lambda t: 1 - t)})
    assert positional.weights(0.25) == {"main": 1.0, "a": 0.75}


def test_tensor_weight_may_be_changed_in_place(data):
    x, y = data
    weight = torch.tensor(0.5)
    objective = aux.Objective(term(), {"a": term(select=lambda out: out, weight=weight)})
    assert objective(stack(), x, y).terms["a"].weight == 0.5
    weight.fill_(0.25)
    assert objective(stack(), x, y).terms["a"].weight == 0.25


def test_order_of_summation(data):
    x, y = data
    model = Predicts("flat")
    objective = aux.Objective(term(), {"a": term(weight=0.3), "b": term(weight=0.7)}, order=["a", "b", "main"])
    a, b, c = (F.cross_entropy(p, y) for p in model(x))
    assert torch.equal(objective(model, x, y).total, b * 0.3 + c * 0.7 + a)
    assert list(objective(model, x, y).terms) == ["a", "b", "main"]


def test_counts_that_only_the_loss_determines_are_refused(data):
    x, y = data
    own = term(lambda p: (p.square().sum(), p.numel()), target=None, count=1, select=lambda out: out)
    objective = aux.Objective(term(), {"own": own})
    with pytest.raises(aux.AuxiliaryError, match="term 'own': its loss has 18 predictions where"):
        objective(stack(), x, y, counts=objective.counts([y]))
    assert objective(stack(), x, y, counts={"main": 6, "own": 18}).terms["own"].count == 18
    without = aux.Objective(term(), {"own": term(lambda p: p.mean(), target=None, select=lambda out: out)})
    with pytest.raises(aux.AuxiliaryError, match="term 'own' has no target, from which its number of"):
        without.counts([y])


class WaitsForThreads(nn.Module):
    """Waits in the middle of its forward pass for all threads."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.first, self.out, self.barrier = nn.Linear(8, 8), nn.Linear(8, 3), threading.Barrier(threads, timeout=60)

    def forward(self, x):
        hidden = self.first(x)
        self.barrier.wait()
        return self.out(hidden)


@pytest.mark.parametrize("attached", [False, True])
def test_threads_with_a_shared_objective_read_separate_taps(attached):
    """The last thread runs the model without the objective, which must not be recorded."""
    threads = 4
    model, head = WaitsForThreads(threads), nn.Linear(8, 3)
    objective = aux.Objective(term(), {"a": term(tap="first", head=head)})
    if attached:
        objective.attach(model)
    data = [(torch.randn(6, 8), torch.randint(0, 3, (6,))) for _ in range(threads - 1)]

    def run(place: int) -> float | None:
        if place == threads - 1:
            model(torch.randn(6, 8))
            return None
        return objective(model, *data[place]).terms["a"].value

    for _ in range(5):
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(run, range(threads)))
        assert found[:-1] == [F.cross_entropy(head(model.first(x)), y).item() for x, y in data]
    assert len(model.first._forward_hooks) == 1


def test_failed_attach_leaves_no_hooks(data):
    x, y = data
    model = stack()
    objective = aux.Objective(term(), {"a": term(tap="layers.*", head="out", weight="unknown")})
    for _ in range(2):
        with pytest.raises(aux.AuxiliaryError, match=r"term 'a.0': there is no preset 'unknown'"):
            objective(model, x, y)
    assert not any(module._forward_hooks for module in model.modules())


def test_terms_of_a_pattern_share_its_target(data):
    x, y = data
    objective = aux.Objective(term(), {"layer": term(tap="layers.[01]", head="out")})
    report = objective(stack(), x, {"main": y, "layer": (y + 1) % 3})
    assert set(report.terms) == {"main", "layer.0", "layer.1"}


def test_ignored_targets_alone_give_count_0_for_functions(data):
    x, _ = data
    model, ignored = stack(), torch.full((6,), -100)
    objective = aux.Objective(term(), {"a": term(lambda p, t: F.cross_entropy(p, t), select=lambda out: out)})
    report = objective(model, x, ignored)
    assert report.terms["a"].value == 0 and report.terms["a"].count == 0
    report.total.backward()
    assert not any(p.grad.any() for p in model.parameters())


def test_nan_loss_with_some_targets_raises(data):
    x, y = data
    nan = term(lambda p, t: F.cross_entropy(p, t) * torch.nan)
    with pytest.raises(aux.NotFiniteError, match="term 'main' is nan"):
        aux.Objective(nan)(stack(), x, torch.where(torch.arange(6) < 5, -100, y))
    labels = aux.Objective(term(lambda p, t: (p.sum(1) - t).square().mean()))  # -100 is a label here
    assert labels(stack(), x, torch.full((6,), -100)).value > 1
