"""Divisors of terms: micro-batches and the full batch give the same total, for every kind of loss."""

import dataclasses
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
    "other ignore_index": (term(nn.CrossEntropyLoss(ignore_index=0)), LABELS.clamp(min=0)),
    "per element, other ignore_index": (
        term(nn.CrossEntropyLoss(ignore_index=0, reduction="none")),
        LABELS.clamp(min=0),
    ),
    "per element": (term(partial(F.cross_entropy, reduction="none")), LABELS),
    "probabilities": (term(), torch.softmax(torch.randn(6, 3), 1)),
    "regression": (term(F.mse_loss), torch.randn(6, 3)),
    "regression per element": (term(partial(F.mse_loss, reduction="none")), torch.randn(6, 3)),
    "fractional count": (term(weighted, count=lambda y: WEIGHT[y[y != -100]].sum()), LABELS),
    "user count": (term(lambda p, y: F.cross_entropy(p, y[0]), target=lambda y: (y,), count=5), LABELS),
}


@pytest.mark.parametrize("name", CASES)
def test_micro_batches_sum_to_the_full_batch(name):
    one, target = CASES[name]
    model = stack()
    if name == "user count":  # a count of five in each call
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


def test_fractional_counts_and_ignored_labels_match_hand_computation():
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


def test_mask_also_leaves_out_ignored_labels():
    model, mask = stack(), torch.ones(6, dtype=torch.bool)
    loss = term(partial(F.cross_entropy, reduction="none"), target="y", mask="m")
    report = aux.Objective(loss)(model, X, {"y": LABELS, "m": mask})
    torch.testing.assert_close(report.total, F.cross_entropy(model(X), LABELS))
    assert int(report.terms["main"].count) == 5


def test_floating_point_mask_weights_elements():
    model, weights = stack(), torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0, 0.25])
    objective = aux.Objective(term(partial(F.cross_entropy, reduction="none"), target="y", mask="w"))
    each = F.cross_entropy(model(X), LABELS, reduction="none")
    expected = (each * weights).sum() / 3.75  # the label with weight 3 is -100
    report = objective(model, X, {"y": LABELS, "w": weights})
    torch.testing.assert_close(report.total, expected)
    assert float(report.terms["main"].count) == 3.75
    parts = [{"y": y, "w": w} for y, w in zip(LABELS.split([2, 4]), weights.split([2, 4]), strict=True)]
    counts = objective.counts(parts)
    reports = [objective(model, x, part, counts=counts) for x, part in zip(X.split([2, 4]), parts, strict=True)]
    torch.testing.assert_close(sum(report.total for report in reports), expected)
    zeros = weights != 0
    for dtype in (torch.float32, torch.bfloat16, torch.long):
        same = objective(model, X, {"y": LABELS, "w": zeros.to(dtype)})
        assert torch.equal(same.total, objective(model, X, {"y": LABELS, "w": zeros}).total)
        assert float(same.terms["main"].count) == 4


def test_floating_point_mask_weights_row_means():
    model, weights = stack(), torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0, 0.25])
    target = torch.randn(6, 3)
    target[2] = torch.nan  # its weight is 0
    objective = aux.Objective(term(partial(F.l1_loss, reduction="none"), target="y", mask="w"))
    report = objective(model, X, {"y": target, "w": weights})
    kept = [0, 1, 3, 4, 5]
    rows = (model(X) - target).abs().mean(1)
    torch.testing.assert_close(report.total, (rows * weights)[kept].sum() / weights.sum())
    report.total.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_uint8_labels_are_never_ignored():
    target = torch.tensor([156, 1, 2, 156, 0, 1], dtype=torch.uint8)
    model = stack(classes=200)
    report = aux.Objective(term(lambda p, t: F.cross_entropy(p, t.long(), reduction="none")))(model, X, target)
    assert int(report.terms["main"].count) == 6
    torch.testing.assert_close(report.total, F.cross_entropy(model(X), target.long()))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_class_weights_count_for_labels_of_every_integer_dtype(dtype):
    target, weight = torch.tensor([0, 1, 1, 1, 0, 2], dtype=dtype), torch.tensor([1.0, 5.0, 0.5])
    model, loss = stack(classes=3), torch.nn.CrossEntropyLoss(weight=weight)
    report = aux.Objective(term(loss))(model, X, target)
    assert float(report.terms["main"].count) == float(weight[target.long()].sum())
    torch.testing.assert_close(report.total, loss(model(X), target.long()))


def test_half_precision_losses_are_summed_in_float32():
    target = torch.zeros(400, 400, dtype=torch.float16)
    objective = aux.Objective(term(lambda p, t: (p - t).square()))
    report = objective(lambda x: x, torch.full((400, 400), 1.5, dtype=torch.float16, requires_grad=True), target)
    assert report.value == 2.25


# Every torch loss of a prediction and a target, with targets for six samples of three.

LOGS = torch.randn(6, 3, generator=torch.Generator().manual_seed(2)).log_softmax(1)
ZERO_ONE, SIGNS = LOGS.gt(-1).float(), torch.where(LOGS.gt(-1), 1.0, -1.0)
TORCH_LOSSES = {
    "cross_entropy": (F.cross_entropy, nn.CrossEntropyLoss, LABELS),
    "nll_loss": (F.nll_loss, nn.NLLLoss, LABELS),
    "binary_cross_entropy": (F.binary_cross_entropy, nn.BCELoss, ZERO_ONE),
    "binary_cross_entropy_with_logits": (F.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss, ZERO_ONE),
    "mse_loss": (F.mse_loss, nn.MSELoss, LOGS),
    "l1_loss": (F.l1_loss, nn.L1Loss, LOGS),
    "smooth_l1_loss": (F.smooth_l1_loss, nn.SmoothL1Loss, LOGS),
    "huber_loss": (F.huber_loss, nn.HuberLoss, LOGS),
    "kl_div": (partial(F.kl_div, log_target=True), partial(nn.KLDivLoss, log_target=True), LOGS),
    "kl_div batchmean": (
        partial(F.kl_div, log_target=True, reduction="batchmean"),
        partial(nn.KLDivLoss, log_target=True, reduction="batchmean"),
        LOGS,
    ),
    "poisson_nll_loss": (F.poisson_nll_loss, nn.PoissonNLLLoss, ZERO_ONE),
    "gaussian_nll_loss": (partial(F.gaussian_nll_loss, var=0.5), None, LOGS),
    "hinge_embedding_loss": (F.hinge_embedding_loss, nn.HingeEmbeddingLoss, SIGNS),
    "soft_margin_loss": (F.soft_margin_loss, nn.SoftMarginLoss, SIGNS),
    "multi_margin_loss": (F.multi_margin_loss, nn.MultiMarginLoss, LABELS.clamp(min=0)),
    "multilabel_margin_loss": (
        F.multilabel_margin_loss, nn.MultiLabelMarginLoss, torch.tensor([[1, -1, 0], [0, 2, -1]] * 3)
    ),
    "multilabel_soft_margin_loss": (F.multilabel_soft_margin_loss, nn.MultiLabelSoftMarginLoss, ZERO_ONE),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss by both the batch size")
@pytest.mark.parametrize("name", TORCH_LOSSES)
def test_micro_batches_of_every_torch_loss_sum_to_the_full_batch(name):
    function, module, target = TORCH_LOSSES[name]
    model = nn.Sequential(stack(), nn.Sigmoid() if name == "binary_cross_entropy" else nn.Identity())
    for loss in [function, module()] if module else [function]:
        expected = loss(model(X), target)
        objective = aux.Objective(term(loss))
        pieces = list(zip(X.split([5, 1]), target.split([5, 1]), strict=True))
        counts = objective.counts(y for _, y in pieces)
        reports = [objective(model, x, y, counts=counts) for x, y in pieces]
        torch.testing.assert_close(sum(report.total for report in reports), expected)
        assert aux.merge(reports).value == pytest.approx(float(expected.detach()))


def test_mean_is_divided_by_the_sum_of_element_weights():
    weight = torch.tensor([[0.5, 2.0, 1.0]])
    objective = aux.Objective(term(partial(F.mse_loss, weight=weight)))
    report = objective(stack(), X[:1], LOGS[:1])
    assert float(report.terms["main"].count) == 3.5


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_elementwise_losses_ignore_no_target(reduction):
    target = torch.tensor([[-100, 1, 2]] * 6)
    report = aux.Objective(term(partial(F.mse_loss, reduction=reduction)))(stack(), X, target)
    assert int(report.terms["main"].count) == 18


# Losses that return one scalar, whose count is not known.


class Shifted(nn.CrossEntropyLoss):
    """Leaves out the first label."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return super().forward(prediction[1:], target[1:])


def shifted(prediction: Tensor, target: Tensor, **more: object) -> Tensor:
    return F.cross_entropy(prediction[1:], target[1:], **more)


SCALAR_LOSSES = {
    "a function": shifted,
    "a function that calls a torch loss": lambda p, y: F.cross_entropy(p, y.clamp(min=0), ignore_index=0),
    "arguments bound": partial(shifted, reduction="mean"),
    "a subclass": Shifted(),
    "legacy arguments": partial(F.cross_entropy, size_average=True),
}
UNKNOWN_COUNT = "term 'main': its loss returned one scalar, and of how many predictions it is the mean is not known"
PIECES = list(zip(X.split([4, 2]), LABELS.split([4, 2]), strict=True))


@pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated")
@pytest.mark.parametrize("name", SCALAR_LOSSES)
def test_scalar_with_unknown_count_is_refused_if_the_count_is_needed(name):
    loss, model = SCALAR_LOSSES[name], stack()
    objective = aux.Objective(term(loss))
    assert torch.equal(objective(model, X, LABELS).total, loss(model(X), LABELS))
    counted = objective.counts(y for _, y in PIECES)
    for counts in (counted, {"main": 5}):
        with pytest.raises(aux.AuxiliaryError, match=UNKNOWN_COUNT):
            objective(model, *PIECES[0], counts=counts)
    with pytest.raises(aux.AuxiliaryError, match=UNKNOWN_COUNT):
        aux.merge(objective(model, x, y) for x, y in PIECES)
    assert aux.merge([objective(model, X, LABELS)]).terms["main"].value > 0


def without_the_first(labels: Tensor) -> Tensor:
    return torch.cat([torch.tensor([-100]), labels[1:]])


@pytest.mark.parametrize(
    "one",
    [
        term(shifted, count=lambda y: (y[1:] != -100).sum()),
        term(lambda p, y: (shifted(p, y, reduction="sum"), (y[1:] != -100).sum())),
        term(lambda p, y: F.cross_entropy(p, y, reduction="none"), target=without_the_first),
    ],
    ids=["count", "pair", "per element"],
)
def test_cures_of_the_unknown_count_error_give_exact_sums(one):
    model = stack()
    losses = [(shifted(model(x), y, reduction="sum"), int((y[1:] != -100).sum())) for x, y in PIECES]
    expected = sum(loss for loss, _ in losses) / sum(count for _, count in losses)
    objective = aux.Objective(one)
    reports = [objective(model, x, y, counts={"main": 4}) for x, y in PIECES]
    torch.testing.assert_close(sum(report.total for report in reports), expected)
    assert aux.merge(reports).value == pytest.approx(float(expected.detach()))


# A count of 0.


def mean_over_labels(prediction: Tensor, target: Tensor) -> Tensor:
    """A mean over labels; without labels, it and its gradient are NaN."""
    where = target != -100
    return (F.cross_entropy(prediction, target, reduction="none") * where).sum() / where.sum()


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return self.scale * mean_over_labels(prediction, target)


IGNORED = torch.full((6,), -100)
EMPTY_TARGETS = {
    "mean": (term(), IGNORED),
    "module": (term(nn.CrossEntropyLoss()), IGNORED),
    "other ignore_index": (term(nn.CrossEntropyLoss(ignore_index=2)), torch.full((6,), 2)),
    "classes of weight 0": (term(nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1, 1]))), torch.zeros_like(IGNORED)),
    "user count": (term(mean_over_labels, count=lambda y: (y != -100).sum()), IGNORED),
    "user count of 0": (term(mean_over_labels, count=0), IGNORED),
    "a loss with a parameter": (term(Scaled(), count=lambda y: (y != -100).sum()), IGNORED),
    "pair": (term(lambda p, y: (mean_over_labels(p, y), (y != -100).sum())), IGNORED),
    "per element": (term(partial(F.cross_entropy, reduction="none")), IGNORED),
    "a mask of zeros": (term(partial(F.cross_entropy, reduction="none"), mask=lambda y: torch.zeros(6)), LABELS),
}


@pytest.mark.parametrize("on_host", [True, False], ids=["count on host", "count on device"])
@pytest.mark.parametrize("name", EMPTY_TARGETS)
def test_count_of_0_adds_0_and_zero_gradients(name, on_host, monkeypatch):
    if not on_host:  # as counts on a GPU
        monkeypatch.setattr("charladder.auxiliary._measure.is_zero", lambda count: torch.as_tensor(count) == 0)
    one, target = EMPTY_TARGETS[name]
    model = stack()
    objective = aux.Objective(term(select=0, target=1), {"nothing": dataclasses.replace(one, select=0, target=0)})
    expected = torch.autograd.grad(F.cross_entropy(model(X), LABELS), list(model.parameters()))
    report = objective(lambda x: [model(x)], X, [target, LABELS])
    for found, wanted in zip(torch.autograd.grad(report.total, list(model.parameters())), expected, strict=True):
        assert torch.equal(found, wanted)
    assert report.terms["nothing"].value == report.terms["nothing"].count == 0
    alone = aux.Objective(one)
    alone(model, X, target).total.backward()
    assert all(p.grad is not None and not p.grad.any() for p in [*model.parameters(), *alone.parameters()])


def test_micro_batch_without_predictions_does_not_change_others():
    model, objective = stack(), aux.Objective(term())
    pieces = [(X, IGNORED), (X, LABELS)]
    counts = objective.counts(y for _, y in pieces)
    reports = [objective(model, x, y, counts=counts) for x, y in pieces]
    torch.testing.assert_close(sum(report.total for report in reports), F.cross_entropy(model(X), LABELS))
    assert aux.merge(reports).value == pytest.approx(float(F.cross_entropy(model(X), LABELS).detach()))


@pytest.mark.parametrize(
    ("one", "target", "sentence"),
    [
        (
            term(partial(F.cross_entropy, reduction="sum")),
            LABELS,
            "has reduction='sum', and a sum cannot be distinguished",
        ),
        (term(nn.CrossEntropyLoss(reduction="sum")), LABELS, "or return a pair"),
        (
            term(lambda p, y: F.cross_entropy(p, y[0])),
            (LABELS,),
            "of type tuple, from which its number of",
        ),
        (
            term(lambda p, y: 1 - F.cosine_similarity(p, y)),
            torch.randn(6, 3),
            "has 6 predictions where objective.counts",
        ),
    ],
)
def test_losses_without_a_known_count_are_refused(one, target, sentence):
    objective = aux.Objective(one)
    with pytest.raises(aux.AuxiliaryError) as error:
        objective(stack(), X, target, counts=objective.counts([target]))
    assert sentence in str(error.value)
