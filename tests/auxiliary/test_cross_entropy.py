"""linear_cross_entropy against separate cross-entropies, and the tensors that it keeps for the backward pass."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from charladder import auxiliary as aux
from charladder.auxiliary import cross_entropy


def make_inputs(bias=False, dtype=torch.float64):
    torch.manual_seed(0)
    hidden = torch.randn(3, 5, 8, dtype=dtype, requires_grad=True)
    classifiers = [nn.Linear(8, 7, bias=bias, dtype=dtype) for _ in range(2)]
    return hidden, classifiers, [torch.randint(0, 7, (3, 5)) for _ in range(2)]


def separate_cross_entropies(hidden, classifiers, targets):
    return [
        F.cross_entropy(one(hidden).flatten(0, 1), target.flatten(), reduction="sum")
        for one, target in zip(classifiers, targets, strict=True)
    ]


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 4, 1024])
def test_losses_and_gradients_match_separate_cross_entropies(normed, bias, rows, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CPU_ROWS_PER_CHUNK", rows)
    hidden, classifiers, targets = make_inputs(bias)
    leaves = [hidden, *(p for one in classifiers for p in one.parameters())]
    ours = aux.linear_cross_entropy(hidden, classifiers, targets, [0.5, 2.0], normed)
    theirs = separate_cross_entropies(F.layer_norm(hidden, (8,)) if normed else hidden, classifiers, targets)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
    found = [torch.autograd.grad((0.5 * a + 2.0 * b) / 15, leaves) for a, b in (ours, theirs)]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("rows", [4, 1024])
def test_targets_of_minus_100_add_nothing(normed, rows, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CPU_ROWS_PER_CHUNK", rows)
    hidden, classifiers, targets = make_inputs(bias=True)
    targets[0][0, 1:4] = targets[1][2] = -100  # each classifier ignores its own
    leaves = [hidden, *(p for one in classifiers for p in one.parameters())]
    ours = aux.linear_cross_entropy(hidden, classifiers, targets, [0.5, 2.0], normed)
    theirs = separate_cross_entropies(F.layer_norm(hidden, (8,)) if normed else hidden, classifiers, targets)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
    found = [torch.autograd.grad((0.5 * a + 2.0 * b) / 15, leaves) for a, b in (ours, theirs)]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_ignored_targets_alone_give_zero_loss_and_gradient():
    hidden, classifiers, targets = make_inputs()
    losses = aux.linear_cross_entropy(hidden, classifiers, [target.fill_(-100) for target in targets], [1.0, 1.0])
    assert [loss.item() for loss in losses] == [0, 0]
    sum(losses).backward()
    assert not hidden.grad.any() and not any(one.weight.grad.any() for one in classifiers)


def test_infinite_logit_of_an_ignored_target_has_no_effect():
    hidden, classifiers, targets = make_inputs()
    with torch.no_grad():
        hidden[0, 0] = 1e308
        classifiers[0].weight.fill_(1.0)  # 8 times 1e308 overflows
    targets[0][0, 0] = -100
    (loss,) = aux.linear_cross_entropy(hidden, classifiers[:1], targets[:1], [1.0])
    loss.backward()
    assert loss.isfinite() and hidden.grad.isfinite().all() and not hidden.grad[0, 0].any()


@pytest.mark.parametrize("wrong", [-1, 7, -101])
def test_target_outside_the_classes_is_refused(wrong):
    hidden, classifiers, targets = make_inputs()
    targets[0][0, 0], targets[1][0, 0] = -100, wrong
    with pytest.raises(aux.AuxiliaryError, match=f"got the target {wrong}; targets are classes from 0 to 6, or -100"):
        aux.linear_cross_entropy(hidden, classifiers, targets, [1.0, 1.0])


def test_one_classifier_for_two_losses():
    hidden, (one, _), targets = make_inputs()
    found = []
    for way in (
        lambda: aux.linear_cross_entropy(hidden, [one, one], targets, [1.0, 1.0]),
        lambda: separate_cross_entropies(hidden, [one, one], targets),
    ):
        found.append(torch.autograd.grad(sum(way()), [hidden, one.weight]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_no_logits_are_saved_for_backward():
    hidden, classifiers, targets = make_inputs()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor.shape) or tensor, lambda tensor: tensor
    ):
        aux.linear_cross_entropy(hidden, classifiers, targets, [1.0, 1.0])
    assert sum(shape.numel() for shape in saved) == hidden.numel() + 2 * 7 * 8 + 2


def test_other_weights_in_the_backward_pass_raise():
    hidden, classifiers, targets = make_inputs()
    a, b = aux.linear_cross_entropy(hidden, classifiers, targets, [1.0, 1.0])
    with pytest.raises(aux.AuxiliaryError, match="have other weights in the backward pass"):
        (a + 2 * b).backward()
    a, b = aux.linear_cross_entropy(hidden, classifiers, targets, [1.0, 1.0])
    with pytest.raises(aux.AuxiliaryError, match="have other weights in the backward pass"):
        a.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weight_check_tolerates_only_rounding(dtype):
    """A difference of 0.1 per mille is an error; a few units in the last place of float32 are rounding."""
    for factor in (1.001, 0.999, 1.0001):
        hidden, classifiers, targets = make_inputs(dtype=dtype)
        a, b = aux.linear_cross_entropy(hidden, classifiers, targets, [1.0, 0.7])
        with pytest.raises(aux.AuxiliaryError, match="have other weights in the backward pass"):
            (a + factor * 0.7 * b).backward()
    for factor in (1 + 1e-6, 1 - 1e-6):
        hidden, classifiers, targets = make_inputs(dtype=dtype)
        a, b = aux.linear_cross_entropy(hidden, classifiers, targets, [1.0, 0.7])
        (a + factor * 0.7 * b).backward()
        assert hidden.grad.isfinite().all()


def test_weight_check_with_subnormal_and_infinite_gradients():
    assert cross_entropy._proportional([6.1e-5, 0.0], [1.0, 1e-42])
    assert cross_entropy._proportional([math.inf, math.inf], [1.0, 2.0])
    assert not cross_entropy._proportional([1.0, 1.0], [1.0, 2.0])
    assert not cross_entropy._proportional([0.0], [0.0])
    assert not cross_entropy._proportional([math.nan], [1.0])


def test_invalid_arguments_raise():
    hidden, classifiers, targets = make_inputs()
    with pytest.raises(aux.AuxiliaryError, match="weight of 0"):
        aux.linear_cross_entropy(hidden, classifiers, targets, [1.0, 0.0])
    with pytest.raises(aux.AuxiliaryError, match="all of one size"):
        aux.linear_cross_entropy(hidden, [classifiers[0], nn.Linear(8, 9).double()], targets, [1.0, 1.0])


def test_autocast_is_close_to_float32():
    hidden, classifiers, targets = make_inputs(dtype=torch.float32)
    found = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses = aux.linear_cross_entropy(hidden, classifiers, targets, [1.0, 1.0])
        assert losses[0].dtype == torch.float32
        found.append(torch.autograd.grad(sum(losses), hidden)[0].flatten())
    assert F.cosine_similarity(*found, dim=0) > 0.999


def test_losses_in_an_objective():
    hidden, classifiers, targets = make_inputs()
    losses = aux.linear_cross_entropy(hidden, classifiers, targets, [1.0, 0.5])
    terms = {"first": aux.Term(lambda loss: loss, select=0, target=None)}
    second = {"second": aux.Term(lambda loss: loss, select=1, target=None, weight=0.5)}
    objective = aux.Objective(terms["first"], second)
    report = objective.from_output([(loss, 15) for loss in losses], progress=0.0)
    report.total.backward()
    assert report.terms["second"].count == 15
    expected = torch.autograd.grad(
        (lambda a, b: a / 15 + b / 30)(*separate_cross_entropies(hidden, classifiers, targets)), hidden
    )[0]
    torch.testing.assert_close(hidden.grad, expected, rtol=1e-10, atol=1e-14)
