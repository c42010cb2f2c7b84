"""Gradients by term, aggregators, and diagnosis."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from auxiliary.test_objective import stack, term
from charladder import auxiliary as aux
from charladder.auxiliary import gradients

J = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [3.0, 4.0, 0.0]])


def make(weight=1.0):
    torch.manual_seed(2)
    model = stack(depth=3)
    heads = {"a": nn.Linear(8, 3), "b": nn.Linear(8, 3)}
    terms = {
        "a": term(tap="layers.0", head=heads["a"], weight=weight),
        "b": term(tap="layers.1", head=heads["b"], weight=weight),
    }
    objective = aux.Objective(term(), terms)
    report = objective(model, torch.randn(6, 8), torch.randint(0, 3, (6,)))
    return model, objective, report


def flat(loss, parameters):
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(found, parameters, strict=True)]
    )


def test_the_cosine_gate_by_hand():
    """cos(main, first) = -1/sqrt 2, factor 0; cos(main, second) = 0.6: (1, 0) + 0.6 (3, 4)."""
    torch.testing.assert_close(gradients.cosine_gate(J), torch.tensor([2.8, 2.4, 0.0]))
    assert torch.equal(gradients.cosine_gate(J[:1]), J[0])


def test_metabalance_by_hand():
    rule = gradients.MetaBalance(r=1.0, decay=0.0)
    expected = J[0] + J[1] / J[1].norm() + J[2] / J[2].norm()
    torch.testing.assert_close(rule(J), expected)
    half = gradients.MetaBalance(r=0.5, decay=0.0)
    torch.testing.assert_close(half(J[[0, 2]]), J[0] + (0.5 / 5 + 0.5) * J[2])
    slow = gradients.MetaBalance(r=1.0, decay=0.5)
    slow(J[[0, 2]])
    torch.testing.assert_close(slow(torch.stack([J[0], 2 * J[2]])), J[0] + 2 * J[2] / 7.5)


def test_metabalance_norms_are_moving_averages():
    """With decay 0.8, an auxiliary norm of 5 and then 10 has the moving average 0.8 * 5 + 0.2 * 10 = 6."""
    rule = gradients.MetaBalance(r=1.0, decay=0.8)
    rule(J[[0, 2]])
    torch.testing.assert_close(rule(torch.stack([J[0], 2 * J[2]])), J[0] + 2 * J[2] / 6)


def test_metabalance_ignores_zero_gradients():
    silent = torch.stack([J[0], torch.zeros(3), J[2]])
    torch.testing.assert_close(gradients.MetaBalance(r=1.0)(silent), J[0] + J[2] / 5)


def test_gradient_rows_of_bfloat16_parameters_are_float32():
    """In bfloat16, 1 + 2**-9 is 1: an aggregator must add rows in a wider dtype."""
    parameter = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    values = {"main": parameter.sum(), "a": 2.0**-9 * parameter.sum()}
    report = aux.Report(values["main"] + values["a"], {}, values)
    seen = []
    gradients.backward(report, [parameter], lambda J: seen.append(J) or J.sum(0))
    assert seen[0].dtype == torch.float32
    assert seen[0].sum(0).tolist() == [1 + 2.0**-9] * 2
    assert parameter.grad is not None and parameter.grad.dtype == torch.bfloat16
    doubles = nn.Parameter(torch.ones(2, dtype=torch.float64))
    assert gradients._flat(None, doubles).dtype == torch.float64


def test_backward_with_sum_equals_plain_backward():
    model, objective, report = make(0.7)
    expected = torch.autograd.grad(report.total, [*model.parameters(), *objective.parameters()], retain_graph=True)
    rows = gradients.backward(report, model.parameters(), lambda J: J.sum(0), objective.parameters())
    assert list(rows) == ["main", "a", "b"]
    for parameter, wanted in zip([*model.parameters(), *objective.parameters()], expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted)


def test_backward_accumulates_into_grad():
    model, _, report = make()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = [torch.ones_like(p) + g for p, g in zip(model.parameters(), grads(report, model), strict=True)]
    gradients.backward(report, model.parameters(), lambda J: J.sum(0))
    for parameter, wanted in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.grad, wanted)


def grads(report, model):
    found = torch.autograd.grad(report.total, list(model.parameters()), retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, model.parameters(), strict=True)]


@pytest.mark.parametrize("name", ["PCGrad", "UPGrad", "CAGrad"])
def test_torchjd_aggregators(name):
    options = {"c": 0.5} if name == "CAGrad" else {}
    model, objective, report = make()
    main = flat(report.parts["main"], list(model.parameters()))
    gradients.backward(report, model.parameters(), gradients.torchjd(name, **options), objective.parameters())
    combined = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert combined.dot(main) > 0 and combined.isfinite().all()
    conflict = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    result = gradients.torchjd(name, **options)(conflict)
    by_hand = {"PCGrad": [0.5, 1.5], "UPGrad": [0.25, 0.75], "CAGrad": [0.25, 0.5]}[name]
    torch.testing.assert_close(result, torch.tensor(by_hand), rtol=0, atol=2e-3)


def test_torchjd_missing_or_unknown_aggregator_raises(monkeypatch):
    with pytest.raises(aux.AuxiliaryError, match="TorchJD has no aggregator 'Mine'; it has"):
        gradients.torchjd("Mine")
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(aux.AuxiliaryError, match=r'PCGrad needs TorchJD: pip install "charladder\[gradients\]"'):
        gradients.torchjd("PCGrad")


def test_diagnosis_by_hand():
    model, objective, report = make(0.5)
    depths = aux.by_depth(model, "layers.*")
    assert list(depths) == ["layers.0", "layers.1", "layers.2"]
    parameters = [p for several in depths.values() for p in several]
    main, a, b = (flat(report.parts[name], parameters) for name in ("main", "a", "b"))
    whole = main + a + b
    plain = torch.autograd.grad(report.total, [*model.parameters(), *objective.parameters()], retain_graph=True)
    found = aux.diagnose(report, depths)
    for name, gradient in (("a", a), ("b", b)):
        comparison = found.groups[name]
        assert comparison.cosine == pytest.approx(float(F.cosine_similarity(gradient, main, dim=0)), rel=1e-5)
        assert comparison.ratio == pytest.approx(float(gradient.norm() / main.norm()), rel=1e-5)
        assert comparison.share == pytest.approx(float(gradient.dot(whole) / whole.dot(whole)), rel=1e-5)
    assert found.main_share + sum(comparison.share for comparison in found.groups.values()) == pytest.approx(1)
    assert found.main_norms["layers.0"] == pytest.approx(float(main[:72].norm()), rel=1e-5)
    assert found.total_norms["layers.2"] == pytest.approx(float(whole[144:].norm()), rel=1e-5)
    report.total.backward()  # the gradients are the same as without diagnose
    for parameter, wanted in zip([*model.parameters(), *objective.parameters()], plain, strict=True):
        assert torch.equal(parameter.grad, wanted)
    with pytest.raises(aux.AuxiliaryError, match="gradients by term must be computed before backward"):
        aux.diagnose(report, depths)


def test_diagnosis_of_single_parameters_equals_that_of_lists():
    model, (x, y) = nn.Linear(4, 3), (torch.randn(5, 4), torch.randint(0, 3, (5,)))
    side = aux.Term(lambda p: p.square().mean(), select=lambda out: out, target=None, weight=0.1)
    objective = aux.Objective(aux.Term(nn.functional.cross_entropy), {"side": side})
    single = aux.diagnose(objective(model, x, y), dict(model.named_parameters()))
    lists = aux.diagnose(objective(model, x, y), {name: [p] for name, p in model.named_parameters()})
    assert single == lists and single.total_norms["weight"] > 0


def test_diagnosis_with_groups_round_trips_through_dict():
    model, _, report = make()
    depths = aux.by_depth(model, "layers.*")
    together = aux.diagnose(report, depths, {"low": ["a", "b", "gone"], "none": ["gone"]})
    assert list(together.groups) == ["low"]
    assert aux.diagnose(report, depths, lambda name: "low") == together
    assert aux.Diagnosis.from_dict(together.as_dict()) == together


def test_diagnosis_shows_vanishing_gradient_and_effect_of_auxiliary_term():
    """In a deep sigmoid network the gradient of the main term almost vanishes in the lowest layer."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(8, 8), nn.Sigmoid()) for _ in range(10)]
    model = nn.Sequential(*layers, nn.Linear(8, 3))
    objective = aux.Objective(term(), {"low": term(tap="1", head=nn.Linear(8, 3))})
    report = objective(model, torch.randn(6, 8), torch.randint(0, 3, (6,)))
    found = aux.diagnose(report, aux.by_depth(model, "[0-9]"))
    assert found.main_norms["0"] < 1e-4 * found.main_norms["9"]
    assert found.total_norms["0"] > 100 * found.main_norms["0"]


def test_draw_depths_draws_two_lines():
    from matplotlib.figure import Figure

    model, _, report = make()
    axes = Figure().subplots()
    aux.draw_depths(axes, [aux.diagnose(report, aux.by_depth(model, "layers.*"))] * 2)
    assert [line.get_label() for line in axes.get_lines()] == ["all terms", "main term alone"]
    assert all(len(line.get_xdata()) == 3 for line in axes.get_lines())


def test_draw_depths_skips_diagnoses_of_other_depths():
    from matplotlib.figure import Figure

    def made(*depths):
        return aux.Diagnosis({}, 1.0, dict.fromkeys(depths, 1.0), dict.fromkeys(depths, 3.0))

    axes = Figure().subplots()
    aux.draw_depths(axes, [made("a", "b"), made("a", "b", "c"), made("b"), made("b", "a")])
    assert [list(line.get_ydata()) for line in axes.get_lines()] == [[3, 3], [1, 1]]
