"""Error messages about what losses return, masks, counts, parts and weights: one sentence."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from auxiliary.one_sentence import assert_one_sentence
from auxiliary.small_objective import HEAD, TAPPED, X, Y, run
from auxiliary.test_objective import stack, term
from charladder import auxiliary as aux


def masked(mask, **more):
    each = partial(F.cross_entropy, reduction="none")
    return run(targets={"main": Y, "a": Y, "m": mask}, a=TAPPED(each, mask="m", **more))


def nan_loss(prediction, target):
    return F.cross_entropy(prediction, target) * torch.nan


def two_parts(prediction, target):
    return {"box": prediction.mean(), "class": F.cross_entropy(prediction, target)}


MISTAKES = {
    "loss of the wrong shape": (
        lambda: run(a=TAPPED(lambda p, t: p)),
        "term 'a': its loss has shape (6, 3) for targets of shape (6,); one value per target is needed, or a mean",
    ),
    "the paper's preset without a layer": (
        lambda: run(a=TAPPED(weight="al_rfou"), call={"progress": 0.0}),
        "term 'a': its weight depends on the layer, and the term has none",
    ),
    "a mapping that is empty": (
        lambda: run(a=TAPPED(lambda p, t: {})),
        "term 'a': its loss returned a mapping with the keys []; give each part a name",
    ),
    "targets that would broadcast": (
        lambda: run(a=TAPPED(F.mse_loss, target=lambda y: torch.zeros(6, 1))),
        "would compare a prediction of shape (6, 3) with a target of shape (6, 1); give both the same shape",
    ),
    "targets that would broadcast, module": (
        lambda: run(a=TAPPED(nn.MSELoss(), target=lambda y: torch.zeros(3))),
        "give both the same shape",
    ),
    "loss that is no tensor": (
        lambda: run(a=TAPPED(lambda p, t: 3.0)),
        "its loss returned of type float; it must return a scalar",
    ),
    "tuple that is no pair": (lambda: run(a=TAPPED(lambda p, t: (p, p, p))), "a pair must be (sum, count)"),
    "mask on a mean": (
        lambda: run(targets={"main": Y, "a": Y, "m": Y}, a=TAPPED(mask="m")),
        "term 'a' has a mask, and its loss returned one scalar; make it return a value per element",
    ),
    "mask of the wrong shape": (
        lambda: run(
            targets={"main": Y, "a": Y, "m": Y[:3]}, a=TAPPED(partial(F.cross_entropy, reduction="none"), mask="m")
        ),
        "its mask has shape (3,) and its loss (6,)",
    ),
    "nan in one term": (lambda: run(a=TAPPED(), b=TAPPED(nan_loss, weight=0.5)), "term 'b' is nan (its weight is 0.5)"),
    "progress too large": (lambda: run(call={"progress": 1.01}), "progress is 1.01; it must lie in [0, 1]"),
    "progress that is nan": (lambda: run(call={"progress": float("nan")}), "progress is nan"),
    "no progress": (
        lambda: run(a=TAPPED(weight=aux.schedules.until(0.5))),
        "term 'a': its weight depends on the progress; give it in the call",
    ),
    "no step": (
        lambda: run(a=TAPPED(weight=lambda step: 1.0)),
        "term 'a': its weight depends on the step; give it in the call",
    ),
    "no layer": (
        lambda: run(a=TAPPED(weight="calm")),
        "term 'a': its weight depends on the layer, and the term has none; give Term(layer=, layers=)",
    ),
    "unknown preset": (
        lambda: run(a=TAPPED(weight="clam")),
        "term 'a': there is no preset 'clam'; the nearest are calm",
    ),
    "weight function with an unknown parameter": (
        lambda: run(a=TAPPED(weight=lambda layer, depth: 1.0)),
        "term 'a': its weight function takes 'depth', which is not available; it may take progress, step",
    ),
    "weight that is nan": (lambda: run(a=TAPPED(weight=lambda t: float("nan")), call={"progress": 0}), "weight is nan"),
    "weight that is text": (lambda: run(a=TAPPED(weight=None)), "its weight is None; it must be a finite number"),
    "index for a mask": (
        lambda: run(a=TAPPED(mask=0)),
        "term 'a': mask=0 picks a part of a list, tuple or mapping",
    ),
    "count that is None": (
        lambda: run(a=TAPPED(count=lambda target: None)),
        "term 'a': its count is None; it must be a number of predictions, at least 0",
    ),
    "count below 0": (lambda: run(a=TAPPED(count=-1)), "term 'a': its count is -1; it must be a number"),
    "count with two numbers": (
        lambda: run(a=TAPPED(count=lambda target: target.float().mean()[None].expand(2))),
        "term 'a': its count is tensor([0., 0.]); it must be a number",
    ),
    "counts that lack a term": (lambda: run(a=TAPPED(), call={"counts": {"main": 6}}), "counts lacks the term 'a'"),
    "rule for an unknown term": (
        lambda: run(rule=lambda values: {"b": 1.0}),
        "the rule has a factor for 'b', and there is no",
    ),
    "mask that is a list": (
        lambda: run(targets={"main": Y, "a": Y, "m": [True] * 6}, a=TAPPED(mask="m")),
        "term 'a': its mask is of type list; it must be a tensor",
    ),
    "mask that is added to scores": (
        lambda: masked(torch.tensor([0.0, 0, 0, 0, -torch.inf, -torch.inf])),
        "term 'a': its mask has numbers below 0 or NaN; floating-point numbers are weights of the loss's elements",
    ),
    "mask with NaN": (lambda: masked(torch.full((6,), torch.nan)), "its mask has numbers below 0 or NaN"),
    "mask that requires a gradient": (
        lambda: masked(torch.ones(6, requires_grad=True)),
        "term 'a': its mask requires a gradient and would get none; detach it",
    ),
    "mask and count": (lambda: masked(torch.ones(6), count=3), "a Term has a mask and a count, and the mask says what"),
    "weight that requires a gradient": (
        lambda: run(a=TAPPED(weight=nn.Parameter(torch.tensor(0.5)))),
        "term 'a': its weight requires a gradient and would get none; give a number, or learn weights with Objective(r",
    ),
    "weight function that requires a gradient": (
        lambda: run(a=TAPPED(weight=lambda progress: HEAD.bias.sum() * progress), call={"progress": 0.5}),
        "term 'a': its weight requires a gradient and would get none",
    ),
    "loss that is no function": (lambda: term(3), "a Term's loss is 3; it must be a function"),
    "parts that are a list": (
        lambda: term(parts=["box"]),
        "a Term's parts are ['box']; give the weight of each part by its name",
    ),
    "part with a weight that is no number": (
        lambda: term(parts={"box": "5"}),
        "a Term's part 'box' has the weight '5'; it must be a finite number",
    ),
    "parts without a weight": (lambda: term(parts={"box": 0}), "a Term's parts have no weight other than 0; leave"),
    "parts of a loss that returns none": (
        lambda: run(a=TAPPED(parts={"box": 1, "class": 1})),
        "term 'a' has parts, and its loss returned none; make it return a mapping with the keys box, class",
    ),
    "a part that the term does not have": (
        lambda: run(a=TAPPED(two_parts, parts={"box": 1, "clas": 1})),
        "term 'a': its loss returned the part 'class', which Term(parts=...) does not have; the nearest are clas",
    ),
    "a part that the loss did not return": (
        lambda: run(a=TAPPED(two_parts, parts={"box": 1, "class": 1, "giou": 2})),
        "term 'a', part 'giou', was not returned by its loss; a part with nothing to predict is the pair",
    ),
    "a part that is no loss": (
        lambda: run(a=TAPPED(lambda p, t: {"box": None})),
        "term 'a', part 'box': its loss returned of type NoneType; it must return a scalar",
    ),
    "a part that is not finite": (
        lambda: run(a=TAPPED(lambda p, t: {"box": p.mean(), "giou": p.mean() * torch.nan})),
        "term 'a', part 'giou' is nan (its weight is 1)",
    ),
    "a count that lacks a part": (
        lambda: run(a=TAPPED(two_parts, count={"box": 6, "clas": 6})),
        "term 'a': its count lacks the part 'class'; the nearest are clas",
    ),
    "a count with parts of a loss without": (
        lambda: run(a=TAPPED(count={"box": 6})),
        "term 'a': its count has parts, and its loss returned none; give one number",
    ),
    "a part of unknown count": (
        lambda: run(a=TAPPED(two_parts), call={"counts": {"main": 6, "a": 6}}),
        "term 'a', part 'box': its loss returned one scalar, and of how many predictions it is the mean is not known",
    ),
    "weights as text": (
        lambda: aux.Objective(term()).from_output(torch.randn(6, 3), Y, weights={"main": "1"}),
        "weights['main'] is '1'; give a number",
    ),
    "negative count": (
        lambda: run(a=TAPPED(lambda p, t: (p.sum(), -4))),
        "its loss returned the count -4; it must be a number of at least 0",
    ),
    "count that is NaN": (
        lambda: run(a=TAPPED(lambda p, t: (p.sum(), torch.tensor(torch.nan)))),
        "its loss returned the count tensor(nan); it must be a number of at least 0",
    ),
    "count of several numbers": (
        lambda: run(a=TAPPED(lambda p, t: (p.sum(), torch.ones(4)))),
        "its loss returned the count tensor([1., 1., 1., 1.]); it must be",
    ),
    "weight function without parameter names": (
        lambda: run(a=TAPPED(weight=lambda *all: 1.0)),
        "have no names; name the parameters of a weight function",
    ),
    "weight in C": (lambda: run(a=TAPPED(weight=max)), "cannot be read; wrap it in a lambda"),
    "rule that returns nothing": (lambda: run(rule=lambda values: None), "the rule returned NoneType; it must return"),
    "progress as text": (lambda: run(call={"progress": "0.5"}), "progress is 0.5; it must lie in [0, 1]"),
    "weights of an unknown term": (
        lambda: aux.Objective(term()).from_output(X, Y, weights={"mian": 1.0}),
        "weights has 'mian', and there is no such term; the nearest are main",
    ),
    "adaptive weight of a loss below 0": (
        lambda: run(a=TAPPED(lambda p, t: p.mean() * 0 - 1.0), rule=aux.rules.AdaLoss(["a"])),
        "AdaLoss divides by losses, and that of 'a' is not above 0",
    ),
    "weights before the model": (
        lambda: aux.Objective(term(), {"a": term(tap="layers.*")}).weights(0.0),
        "some taps are patterns; attach(model) says which terms there are",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_message_is_one_sentence(name):
    assert_one_sentence(*MISTAKES[name])


def test_not_finite_loss_is_reported_before_backward():
    with pytest.raises(aux.NotFiniteError) as error:
        run(a=TAPPED(), b=TAPPED(nan_loss))
    assert error.value.term == "b"
    assert HEAD.weight.grad is None
    unchecked = aux.Objective(term(nan_loss), check=False)
    assert unchecked(stack(), X, Y).total.isnan()
    with pytest.raises(aux.NotFiniteError, match="the total is not finite, though every term is"):
        run(
            main=term(weight=1e308), a=term(select=lambda out: out, weight=1e308, loss=lambda p, t: p.mean() * 0 + 1e30)
        )


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (16, "counts is of <class 'int'>; give a dict of numbers"),
        ({"main": 6, "mian": 6}, "counts has 'mian', and there is no such term; the nearest are main"),
        ({"main": "6"}, "counts\\['main'\\] is '6'; give the number"),
        ({"main": None}, "counts\\['main'\\] is None; give the number"),
        ({"main": {"a": "6"}}, "counts\\['main'\\]\\['a'\\] is '6'; give the number"),
        ({"main": -3}, "counts\\['main'\\] is -3; it must be at least 0"),
        ({"main": float("nan")}, "counts\\['main'\\] is nan; it must be at least 0"),
    ],
)
def test_invalid_counts_raise(counts, said):
    objective = aux.Objective(aux.Term(F.cross_entropy))
    with pytest.raises(aux.AuxiliaryError, match=said):
        objective(nn.Linear(8, 3), torch.randn(6, 8), torch.randint(0, 3, (6,)), counts=counts)
