"""Losses that return named parts: each part is divided by its own count, weighted, summed and reported."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from auxiliary.test_objective import stack, term
from charladder import auxiliary as aux

WEIGHTS = {"class": 1.0, "box": 5.0, "giou": 2.0, "accuracy": 0.0}
LABELS = torch.tensor([0, 1, -100, 2, -100, 1])
X = torch.randn(6, 8, generator=torch.Generator().manual_seed(4))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(5)


def detection_loss(prediction, y):
    """A value per element, a pair, a mean over the labels that are not -100 (NaN if there is none), and a number."""
    found = prediction[y != -100]
    return {
        "class": F.cross_entropy(prediction, y, reduction="none"),
        "box": (found.abs().sum(), found.numel()),
        "giou": found.square().mean(),
        "accuracy": (prediction.argmax(-1) == y).float().mean(),
    }


def counts_of_parts(y):
    kept = (y != -100).sum()
    return {"class": kept, "box": 3 * kept, "giou": 3 * kept, "accuracy": len(y)}


def by_hand(prediction, y):
    found = prediction[y != -100]
    parts = {"class": F.cross_entropy(prediction, y), "box": found.abs().mean(), "giou": found.square().mean()}
    return parts | {"total": parts["class"] + 5 * parts["box"] + 2 * parts["giou"]}


def tapped(**fields):
    fields = {"tap": "layers.0", "head": nn.Linear(8, 3), "weight": 0.5, "count": counts_of_parts} | fields
    return term(detection_loss, **fields)


def test_parts_match_the_formula_and_are_reported_by_name():
    model = stack()
    objective = aux.Objective(term(), {"layer1": tapped(parts=WEIGHTS)})
    report = objective(model, X, LABELS)
    expected = by_hand(objective.terms["layer1"].head(model.layers[0](X)), LABELS)
    total = F.cross_entropy(model(X), LABELS) + 0.5 * expected["total"]
    torch.testing.assert_close(report.total, total)
    torch.testing.assert_close(report.losses["layer1"], expected["total"])
    parameters = [*model.parameters(), *objective.parameters()]
    found, wanted = torch.autograd.grad(report.total, parameters), torch.autograd.grad(total, parameters)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    layer1 = report.terms["layer1"]
    assert list(layer1.parts) == list(WEIGHTS)
    assert [part.weight for part in layer1.parts.values()] == list(WEIGHTS.values())
    for name in ("class", "box", "giou"):
        assert layer1.parts[name].value == pytest.approx(expected[name].item(), rel=1e-6)
    assert float(layer1.parts["box"].count) == 12
    assert layer1.value == pytest.approx(expected["total"].item(), rel=1e-6)
    assert layer1.value == pytest.approx(sum(part.share for part in layer1.parts.values()), rel=1e-6)
    assert report.value == pytest.approx(total.item(), rel=1e-6)


def test_parts_without_weights_are_added():
    model = stack()
    report = aux.Objective(term(lambda p, _: {"a": p.mean(), "b": (p.sum(), 6)}))(model, X, LABELS)
    torch.testing.assert_close(report.total, model(X).mean() + model(X).sum() / 6)


@pytest.mark.parametrize("parts", [None, WEIGHTS], ids=["undeclared", "declared"])
def test_micro_batches_of_parts_sum_to_the_full_batch(parts):
    """The second micro-batch has nothing to predict in three of the four parts."""
    model = stack()
    objective = aux.Objective(term(), {"layer1": tapped(parts=parts)})
    parameters = [*objective.build(model, X).parameters(), *model.parameters()]
    whole = objective(model, X, LABELS)
    pieces = [slice(0, 4), slice(4, 5), slice(5, 6)]
    counts = objective.counts(LABELS[piece] for piece in pieces)
    assert {part: float(count) for part, count in counts["layer1"].items()} == {
        "class": 4, "box": 12, "giou": 12, "accuracy": 6,
    }  # fmt: skip
    reports = [objective(model, X[piece], LABELS[piece], counts=counts) for piece in pieces]
    total = sum(report.total for report in reports)
    torch.testing.assert_close(total, whole.total)
    found, wanted = torch.autograd.grad(total, parameters), torch.autograd.grad(whole.total, parameters)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    merged = aux.merge(reports).terms["layer1"]
    for name, part in whole.terms["layer1"].parts.items():
        assert merged.parts[name].value == pytest.approx(part.value, rel=1e-6)
    assert merged.value == pytest.approx(whole.terms["layer1"].value, rel=1e-6)


def test_counts_of_the_user_may_have_parts():
    model = stack()
    objective = aux.Objective(term(detection_loss, count=counts_of_parts, parts=WEIGHTS))
    whole = objective(model, X, LABELS)
    twice = objective(model, X, LABELS, counts={"main": {"class": 8, "box": 24, "giou": 24, "accuracy": 12}})
    torch.testing.assert_close(2 * twice.total, whole.total)
    with pytest.raises(aux.AuxiliaryError, match="term 'main': its count lacks the part 'giou'"):
        objective(model, X, LABELS, counts={"main": {"class": 8, "box": 24}})
    wrong = aux.Objective(term(detection_loss, count=lambda y: counts_of_parts(y) | {"box": 4}))
    with pytest.raises(aux.AuxiliaryError, match="term 'main', part 'box': its loss has 12 predictions where"):
        wrong(model, X, LABELS, counts=wrong.counts([LABELS]))


def test_empty_target_gives_zeros_and_no_nan():
    model = stack()
    empty = torch.full((6,), -100)
    report = aux.Objective(term(detection_loss, count=counts_of_parts, parts=WEIGHTS))(model, X, empty)
    report.total.backward()
    assert report.total.item() == 0 and report.terms["main"].value == 0
    assert all(parameter.grad.eq(0).all() for parameter in model.parameters())


def test_only_and_measure():
    model = stack()
    terms = {"logged": tapped(parts=WEIGHTS, weight=0.0, measure=True), "other": tapped()}
    objective = aux.Objective(term(), terms)
    report = objective(model, X, LABELS, only=["main", "logged"])
    assert list(report.terms) == ["main", "logged"]
    assert report.terms["logged"].parts["box"].value > 0 and report.terms["logged"].weight == 0
    torch.testing.assert_close(report.total, F.cross_entropy(model(X), LABELS))
    assert list(objective(model, X, LABELS, only="other").terms) == ["other"]


def test_a_part_that_is_only_reported_may_be_infinite():
    def loss(prediction, y):
        return {"a": F.cross_entropy(prediction, y), "b": (prediction * torch.inf).sum().abs()}

    model = stack()
    report = aux.Objective(term(loss, parts={"a": 2.0, "b": 0.0}))(model, X, LABELS)
    report.total.backward()
    torch.testing.assert_close(report.total, 2 * F.cross_entropy(model(X), LABELS))
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_rules_and_gradients_by_term_see_the_sum_of_the_parts():
    model = stack()
    objective = aux.Objective(term(), {"layer1": tapped(parts=WEIGHTS)}, rule=aux.rules.AdaLoss(["layer1"]))
    report = objective(model, X, LABELS)
    assert report.terms["layer1"].value * report.terms["layer1"].weight / 0.5 == pytest.approx(
        report.terms["main"].value, rel=1e-5
    )
    torch.testing.assert_close(report.parts["main"] + report.parts["layer1"], report.total)


def test_compiled_model():
    torch.compiler.reset()
    model = stack()
    objective = aux.Objective(term(), {"layer1": tapped(parts=WEIGHTS)}, model=model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    found, wanted = objective(compiled, X, LABELS), objective(model, X, LABELS)
    torch.testing.assert_close(found.total, wanted.total)
    assert found.terms["layer1"].parts["giou"].value == pytest.approx(wanted.terms["layer1"].parts["giou"].value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_part_with_nothing_to_predict_has_no_nan_gradient_on_a_gpu():
    model, x, y = stack().cuda(), X.cuda(), torch.full((6,), -100, device="cuda")
    aux.Objective(term(detection_loss, count=counts_of_parts, parts=WEIGHTS))(model, x, y).total.backward()
    assert all(parameter.grad.eq(0).all() for parameter in model.parameters())
