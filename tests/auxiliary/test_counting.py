"""What a term is divided by: the same with and without micro-batches, whatever its loss is."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auxiliary.test_objective import stack, term
from charladder import auxiliary as aux

WEIGHT = torch.tensor([0.1, 2.0, 0.5])
LABELS = torch.tensor([0, 1, 2, 2, -100, 1])
X = torch.randn(6, 8, generator=torch.Generator().manual_seed(4))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(5)


def weighted(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    kept = target != -100
    w = WEIGHT[target[kept]]
    return (F.cross_entropy(prediction[kept], target[kept], reduction="none") * w).sum(), w.sum()


CASES = {
    "mean": (term(), LABELS),
    "class weights": (term(nn.CrossEntropyLoss(weight=WEIGHT)), LABELS),
    "class weights, bound": (term(partial(F.cross_entropy, weight=WEIGHT)), LABELS),
    "another number ignored": (term(nn.CrossEntropyLoss(ignore_index=0)), LABELS.clamp(min=0)),
    "each, another number ignored": (term(nn.CrossEntropyLoss(ignore_index=0, reduction="none")), LABELS.clamp(min=0)),
    "each": (term(partial(F.cross_entropy, reduction="none")), LABELS),
    "probabilities": (term(), torch.softmax(torch.randn(6, 3), 1)),
    "numbers": (term(F.mse_loss), torch.randn(6, 3)),
    "each number": (term(partial(F.mse_loss, reduction="none")), torch.randn(6, 3)),
    "fractions of its own": (term(weighted, count=lambda y: WEIGHT[y[y != -100]].sum()), LABELS),
    "a count of the owner's": (term(lambda p, y: F.cross_entropy(p, y[0]), target=lambda y: (y,), count=5), LABELS),
}


@pytest.mark.parametrize("name", CASES)
def test_micro_batches_add_up_to_the_whole(name):
    one, target = CASES[name]
    model = stack()
    if name == "a count of the owner's":  # five in each call, whatever is in it
        pieces = [3, 3]
        target = LABELS.clamp(min=0)
    else:
        pieces = [5, 1]
    objective = aux.Objective(one)
    whole = objective(model, X, target)
    parts = list(zip(X.split(pieces), target.split(pieces), strict=True))
    counts = objective.counts(y for _, y in parts)
    reports = [objective(model, x, y, counts=counts) for x, y in parts]
    torch.testing.assert_close(sum(report.total for report in reports), whole.total)
    assert aux.merge(reports).terms["main"].value == pytest.approx(whole.value, rel=1e-6)


def test_fractions_and_ignored_numbers_by_hand():
    model, y = stack(), torch.tensor([0, 1, 2, 2, 0, 1])
    loss = F.cross_entropy(model(X), y, weight=WEIGHT)
    small = aux.Objective(
        term(lambda p, t: (F.cross_entropy(p, t, reduction="none").mul(WEIGHT[t]).sum(), WEIGHT[t].sum()))
    )
    report = small(model, X, y)
    torch.testing.assert_close(report.total, loss)
    assert report.value == pytest.approx(float(loss.detach()))
    tiny = aux.Objective(term(lambda p, t: (p.new_tensor(0.2), torch.tensor(0.4))))(model, X, y)
    assert float(tiny.total) == pytest.approx(0.5) and tiny.value == pytest.approx(0.5)
    each = aux.Objective(term(nn.CrossEntropyLoss(ignore_index=0, reduction="none")))(model, X, y)
    torch.testing.assert_close(each.total, F.cross_entropy(model(X), y, ignore_index=0))
    assert float(each.terms["main"].count) == 4


def test_a_mask_leaves_out_what_torch_ignores_too():
    model, mask = stack(), torch.ones(6, dtype=torch.bool)
    loss = term(partial(F.cross_entropy, reduction="none"), target="y", mask="m")
    report = aux.Objective(loss)(model, X, {"y": LABELS, "m": mask})
    torch.testing.assert_close(report.total, F.cross_entropy(model(X), LABELS))
    assert int(report.terms["main"].count) == 5


def test_labels_in_a_byte_cannot_be_ignored():
    target = torch.tensor([156, 1, 2, 156, 0, 1], dtype=torch.uint8)
    model = stack(classes=200)
    report = aux.Objective(term(lambda p, t: F.cross_entropy(p, t.long(), reduction="none")))(model, X, target)
    assert int(report.terms["main"].count) == 6
    torch.testing.assert_close(report.total, F.cross_entropy(model(X), target.long()))


def test_half_precision_is_summed_in_float32():
    target = torch.zeros(400, 400, dtype=torch.float16)
    objective = aux.Objective(term(lambda p, t: (p - t).square()))
    report = objective(lambda x: x, torch.full((400, 400), 1.5, dtype=torch.float16, requires_grad=True), target)
    assert report.value == 2.25


@pytest.mark.parametrize(
    ("one", "target", "sentence"),
    [
        (
            term(partial(F.cross_entropy, reduction="sum")),
            LABELS,
            "has reduction='sum', and a sum cannot be told from a",
        ),
        (term(nn.CrossEntropyLoss(reduction="sum")), LABELS, "or return a pair"),
        (term(lambda p, y: F.cross_entropy(p, y[0])), (LABELS,), "of type tuple, which does not say how many"),
        (
            term(lambda p, y: 1 - F.cosine_similarity(p, y)),
            torch.randn(6, 3),
            "has 6 predictions where objective.counts",
        ),
    ],
)
def test_what_cannot_be_counted_is_refused(one, target, sentence):
    objective = aux.Objective(one)
    with pytest.raises(aux.AuxiliaryError) as caught:
        objective(stack(), X, target, counts=objective.counts([target]))
    assert sentence in str(caught.value)
