"""Error messages: one sentence that names the term, what is wrong and what to do."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from auxiliary.one_sentence import assert_one_sentence
from auxiliary.test_objective import CallsLayerThreeTimes, OnlyLastCallHasGradients, Predicts, stack, term
from charladder import auxiliary as aux

X, Y = torch.ones(6, 8), torch.zeros(6, dtype=torch.long)


def run(main=None, model=None, inputs=X, targets=Y, call=None, rule=None, **terms):
    objective = aux.Objective(main or term(), terms, rule=rule)
    return objective(model or stack(), inputs, targets, **(call or {}))


def two_terms_of_one_name():
    return aux.Objective(term(), [("a", term()), ("a", term())])


def removed():
    objective = aux.Objective(term(), {"a": term(tap="layers.0", head="out")}, model=stack())
    objective.remove()
    return objective(stack(), X, Y)


def another_model():
    objective = aux.Objective(term(), {"a": term(tap="layers.0", head="out")}, model=stack())
    return objective(stack(), X, Y)


def reentrant():
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.out = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.out(checkpoint(self.inside, x, use_reentrant=True))

    inputs = X.clone().requires_grad_()
    return run(model=Checkpointed(), inputs=inputs, a=term(tap="inside", head="out"))


def unused_tap():
    model = stack()
    model.spare = nn.Linear(8, 8)
    model.forward = lambda x: model.out(model.layers(x))
    return run(model=model, a=term(tap="spare", head="out"))


def replaced(change):
    objective = aux.Objective(term(), {"a": TAPPED()}, model=stack())
    change(objective)


def shared_layers(modules: int) -> nn.Module:
    """Six names of layers for fewer modules."""
    several = [nn.Linear(8, 8) for _ in range(modules)]
    return nn.ModuleDict({"layers": nn.ModuleList([several[at % modules] for at in range(6)])})


def masked(mask, **more):
    each = partial(F.cross_entropy, reduction="none")
    return run(targets={"main": Y, "a": Y, "m": mask}, a=TAPPED(each, mask="m", **more))


def nan_loss(prediction, target):
    return F.cross_entropy(prediction, target) * torch.nan


def two_parts(prediction, target):
    return {"box": prediction.mean(), "class": F.cross_entropy(prediction, target)}


HEAD = nn.Linear(8, 3)
TAPPED = partial(term, tap="layers.0", head=HEAD)
MISTAKES = {
    "a head for the next token": (
        lambda: aux.presets.independent_targets("0", {1: nn.Linear(8, 3)}),
        "independent_targets has heads for the offsets [1]; give at least one, for offsets from 2 on",
    ),
    "a chain without modules": (
        lambda: aux.presets.chained_targets("0", [], nn.Embedding(3, 8), HEAD),
        "chained_targets has no modules; give one for each further token",
    ),
    "labels that are not tokens": (
        lambda: run(a=aux.presets.token_order("layers.0", HEAD, window=2)),
        "token_order needs labels of shape (batch, positions), whole numbers with -100",
    ),
    "two of one name": (two_terms_of_one_name, "there are two terms called 'a'; give each a name of its own"),
    "a term called main": (lambda: aux.Objective(term(), {"main": term()}), "there are two terms called 'main'"),
    "patterns that collide": (
        lambda: run(**{"a": term(tap="layers.*", head=HEAD), "a.1": TAPPED()}),
        "there are two terms called 'a.1'",
    ),
    "unknown tap": (
        lambda: run(a=term(tap="layer.0", head=HEAD)),
        "term 'a': the model has no module 'layer.0'; the nearest are layers.0",
    ),
    "unknown pattern": (
        lambda: run(a=term(tap="blocks.*", head=HEAD)),
        "the model has no module 'blocks.*'; there are",
    ),
    "unknown head": (lambda: run(a=term(tap="layers.0", head="outt")), "no module 'outt'; the nearest are out"),
    "tap never reached": (unused_tap, "term 'a': its tap spare was never reached in this forward pass; tap a module"),
    "reentrant checkpoint": (
        reentrant,
        "inside ran with gradients off, so the term could not train the model; check",
    ),
    "several calls": (
        lambda: run(model=CallsLayerThreeTimes(), a=term(tap="layer", head=HEAD)),
        "the model calls its tap layer 3 times in a forward pass; say which call",
    ),
    "no such call": (
        lambda: run(model=CallsLayerThreeTimes(), a=term(tap="layer", head=HEAD, call=3)),
        "its call is 3, and the model calls its tap layer 3 times",
    ),
    "a call without gradients": (
        lambda: run(model=OnlyLastCallHasGradients(), a=term(tap="layer", head=HEAD, call=0)),
        "so the term could not train the model; choose a call that has gradients with Term(call=...)",
    ),
    "several calls, some without gradients": (
        lambda: run(model=OnlyLastCallHasGradients(), a=term(tap="layer", head=HEAD)),
        "the model calls its tap layer 3 times in a forward pass; say which call",
    ),
    "all calls, some without gradients": (
        lambda: run(
            model=OnlyLastCallHasGradients(), a=term(lambda p, t: p[-1].mean(), tap="layer", head=HEAD, call="all")
        ),
        "choose a call that has gradients with Term(call=...), or give Term(detach_tap=True)",
    ),
    "head of the wrong width": (
        lambda: run(a=term(tap="layers.0", head=nn.Linear(9, 3))),
        r"term 'a': its head Linear(9, 3) cannot read the tap layers.0 of shape (6, 8): mat1 and mat2",
    ),
    "head not built": (
        lambda: run(a=term(tap="layers.0", head=aux.heads.linear(3))),
        "term 'a': its head is still to be made; call objective.build(model, inputs) once",
    ),
    "no targets": (lambda: run(targets=None), "term 'main' has no target; give targets, or Term(target=None)"),
    "missing target": (
        lambda: run(targets={"main": Y, "coarse": Y}, corase=TAPPED()),
        "term 'corase': targets has no part 'corase'; the nearest are coarse",
    ),
    "target of the wrong shape": (
        lambda: run(a=TAPPED(target=lambda y: y[:4])),
        "term 'a': its loss cannot compare a prediction of shape (6, 3) with a target of shape (4,): Expected input",
    ),
    "targets that would broadcast": (
        lambda: run(a=TAPPED(F.mse_loss, target=lambda y: torch.zeros(6, 1))),
        "would compare a prediction of shape (6, 3) with a target of shape (6, 1); give both the same shape",
    ),
    "targets that would broadcast, module": (
        lambda: run(a=TAPPED(nn.MSELoss(), target=lambda y: torch.zeros(3))),
        "give both the same shape",
    ),
    "loss of the wrong shape": (
        lambda: run(a=TAPPED(lambda p, t: p)),
        "term 'a': its loss has shape (6, 3) for targets of shape (6,); one value per target is needed, or a mean",
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
    "used after removal": (removed, "this objective was removed from its model; attach(model) it again"),
    "another model": (another_model, "this objective is attached to another model"),
    "a function with taps": (
        lambda: run(model=lambda x: x, a=TAPPED()),
        "the model is a plain function; give the nn.Module",
    ),
    "too few predictions": (
        lambda: run(model=Predicts("flat"), a=term()),
        "term 'a': the model returns 2 predictions beside the main one, and 1 of the terms have neither tap nor select",
    ),
    "no such prediction": (
        lambda: run(model=Predicts("mapping"), frist=term()),
        "term 'frist' has no tap, and the model's output (dict) has no part of that name",
    ),
    "no such part": (
        lambda: run(main=term(select="logit"), model=Predicts("dataclass")),
        "no part 'logit'; the nearest",
    ),
    "index into a tensor": (
        lambda: run(main=term(select=0), model=nn.Linear(8, 3)),
        "term 'main': select=0 picks a part of a list, tuple or mapping, and here the model's output is one tensor of "
        "shape (6, 3); leave select out, or give a function",
    ),
    "index into a tapped tensor": (
        lambda: run(a=TAPPED(select=(-1,))),
        "term 'a': select=-1 picks a part of a list, tuple or mapping, and here what layers.0 returned is one tensor",
    ),
    "method of a tensor": (
        lambda: run(main=term(select="mean"), model=nn.Linear(8, 3)),
        "term 'main': select='mean' picks a part of a list, tuple or mapping",
    ),
    "method of a list": (
        lambda: run(main=term(select="index"), model=Predicts("flat")),
        "term 'main': the model's output has no part 'index'",
    ),
    "index into targets": (
        lambda: run(main=term(target=0)),
        "term 'main': target=0 picks a part of a list, tuple or mapping, and here targets are one tensor of shape (6,)",
    ),
    "index into an array of targets": (
        lambda: run(main=term(target=0), targets=Y.numpy()),
        "term 'main': target=0 picks a part of a list, tuple or mapping",
    ),
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
    "unclear part": (
        lambda: run(model=lambda x: {"loss": None, "logits": x}, inputs=X),
        "it is not clear which part of it is meant; say so with Term(select=...); there are loss, logits",
    ),
    "counts that lack a term": (lambda: run(a=TAPPED(), call={"counts": {"main": 6}}), "counts lacks the term 'a'"),
    "DataParallel": (
        lambda: run(model=nn.DataParallel(stack()), a=TAPPED()),
        "nn.DataParallel cannot be tapped, because it runs copies of the model; use DistributedDataParallel",
    ),
    "order that lacks a term": (
        lambda: aux.Objective(term(), {"a": term()}, order=["main"]),
        "it must have every term",
    ),
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
    "term replaced": (
        lambda: replaced(lambda objective: objective.terms.__setitem__("a", TAPPED(weight=5.0))),
        "term 'a' cannot be replaced, added or removed after the objective is made; make a new Objective, or let Term(",
    ),
    "term removed": (
        lambda: replaced(lambda objective: objective.terms.__delitem__("a")),
        "term 'a' cannot be replaced",
    ),
    "all terms replaced": (
        lambda: replaced(lambda objective: setattr(objective, "terms", {"main": term()})),
        "the terms of an objective cannot be replaced; make a new Objective",
    ),
    "layers of one layer": (
        lambda: aux.intermediate_terms(stack(depth=1), "layers.*", F.cross_entropy),
        "intermediate_terms(): layers.0 alone matches 'layers.*', and the last of the layers has the main loss; give",
    ),
    "layers of one shared layer": (
        lambda: aux.intermediate_terms(shared_layers(1), "layers.*", F.cross_entropy),
        "intermediate_terms(): 6 names match 'layers.*', and they are one module that the model calls",
    ),
    "layers of some shared layers": (
        lambda: aux.intermediate_terms(shared_layers(2), "layers.*", F.cross_entropy),
        "intermediate_terms(): 6 names match 'layers.*', and they are 2 modules that the model calls several times",
    ),
    "call without a tap": (
        lambda: term(call=-1),
        "a Term has call=-1 and no tap; give tap=, or leave call= out",
    ),
    "detached head without a head": (
        lambda: term(detach_head=True),
        "a Term has detach_head=True and no head; give head=",
    ),
    "changed in place": (
        lambda: run(
            model=nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)),
            a=term(tap="0", head=HEAD),
        ),
        "term 'a': what 0 returned was changed in place afterwards, so the tap has no longer the module's output",
    ),
    "the paper's preset without a layer": (
        lambda: run(a=TAPPED(weight="al_rfou"), call={"progress": 0.0}),
        "term 'a': its weight depends on the layer, and the term has none",
    ),
    "layer past the last": (lambda: term(layer=9, layers=4), "a Term has layer 9 of 4; layers go from 1 to layers="),
    "layer 0": (lambda: term(layer=0, layers=4), "a Term has layer 0 of 4"),
    "offset past the last": (lambda: term(offset=2), "a Term has offset 2 of 1; offsets go from 1 to offsets="),
    "loss that is no function": (lambda: term(3), "a Term's loss is 3; it must be a function"),
    "tap that is a module": (lambda: term(tap=HEAD), "a Term's tap is of type Linear; give the name of a module"),
    "function instead of a term": (
        lambda: aux.Objective(term(), {"a": F.cross_entropy}),
        "it must have a Term by each name",
    ),
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
    "a mapping that is empty": (
        lambda: run(a=TAPPED(lambda p, t: {})),
        "term 'a': its loss returned a mapping with the keys []; give each part a name",
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
    "empty name": (lambda: aux.Objective(term(), {"": term()}), "it must have a Term by each name"),
    "weights as text": (
        lambda: aux.Objective(term()).from_output(torch.randn(6, 3), Y, weights={"main": "1"}),
        "weights['main'] is '1'; give a number",
    ),
    "check that is a number": (lambda: aux.Objective(term(), check=1), "check is 1; it must be True, False"),
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
    "tapped without a name": (lambda: aux.tapped(3), "tapped(3): give the name of a module"),
    "labels of the z-loss in another shape": (
        lambda: run(a=aux.presets.z_loss(target=lambda t: t[:, None])),
        "z_loss reads logits of shape (6, 3) and labels of shape (6, 1)",
    ),
    "auxiliary without names": (
        lambda: aux.Objective(term(), [term()]),
        "auxiliary has a Term without a name; give a dict of terms by name",
    ),
    "main that is a function": (
        lambda: aux.Objective(F.cross_entropy),
        "main is of type function; give a Term, such as Term(F.cross_entropy)",
    ),
    "diagnose without names": (
        lambda: aux.diagnose(run(), stack().parameters()),
        "diagnose takes groups of parameters by name, and got generator",
    ),
    "main with a pattern": (
        lambda: run(main=term(tap="layers.*")),
        "main must be one Term, and its tap one module's name",
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
    "head of a model that is not attached": (
        lambda: aux.Objective(term(), {"a": term(select=lambda out: out, head="out")}).from_output(X[:, :3], Y),
        "term 'a': its head 'out' is the model's; attach(model) first",
    ),
    "head factory that returns None": (
        lambda: aux.Objective(term(), {"a": term(tap="layers.0", head=lambda shape: None)}).build(stack(), X),
        "term 'a': the function that makes its head returned None, and not a module",
    ),
    "nothing to diagnose": (
        lambda: aux.diagnose(run(a=TAPPED()), {"x": []}),
        "there are no parameters to diagnose",
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


def test_out_of_memory_error_is_unchanged():
    def greedy(prediction, target):
        raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError):
        run(a=TAPPED(greedy))


class RaisesKeyError(nn.Module):
    def forward(self, *arguments):
        return raises_key_error()


def raises_key_error(*arguments):
    return {}["absent"]


USER_FUNCTIONS = {
    "select": (lambda: run(a=TAPPED(select=raises_key_error)), "term 'a': its select function"),
    "target": (lambda: run(a=TAPPED(target=raises_key_error)), "term 'a': its target function"),
    "mask": (lambda: run(a=TAPPED(mask=raises_key_error)), "term 'a': its mask function"),
    "weight of the progress": (
        lambda: run(a=TAPPED(weight=lambda t: raises_key_error()), call={"progress": 0.5}),
        "term 'a': its weight function",
    ),
    "weight of the step": (
        lambda: run(a=TAPPED(weight=lambda step: raises_key_error()), call={"step": 5}),
        "term 'a': its weight function",
    ),
    "count": (lambda: run(a=TAPPED(count=raises_key_error)), "term 'a': its count function"),
    "count of several batches": (
        lambda: aux.Objective(term(), {"a": TAPPED(count=raises_key_error)}).counts([Y]),
        "term 'a': its count function",
    ),
    "loss": (lambda: run(a=TAPPED(raises_key_error)), "term 'a': its loss"),
    "loss without a target": (lambda: run(a=TAPPED(raises_key_error, target=None)), "term 'a': its loss"),
    "loss module": (lambda: run(a=TAPPED(RaisesKeyError())), "term 'a': its loss"),
    "head": (lambda: run(a=TAPPED(head=RaisesKeyError())), "term 'a': its head"),
    "detached head": (lambda: run(a=TAPPED(head=RaisesKeyError(), detach_head=True)), "term 'a': its head"),
    "head factory": (
        lambda: aux.Objective(term(), {"a": TAPPED(head=raises_key_error)}).build(stack(), X),
        "term 'a': the function that makes its head",
    ),
    "rule": (lambda: run(rule=raises_key_error), "the rule"),
}


@pytest.mark.parametrize("role", USER_FUNCTIONS)
def test_error_of_user_function_names_term_and_role(role):
    call, subject = USER_FUNCTIONS[role]
    with pytest.raises(aux.AuxiliaryError) as error:
        call()
    assert str(error.value) == f"{subject} raised KeyError: 'absent'"
    assert isinstance(error.value.__cause__, KeyError)


def test_user_exceptions_without_message_and_from_the_library():
    def silent(targets):
        raise StopIteration

    def complete(targets):
        raise aux.AuxiliaryError("the sentence of a library function")

    with pytest.raises(aux.AuxiliaryError, match=r"^term 'a': its target function raised StopIteration$"):
        run(a=TAPPED(target=silent))
    with pytest.raises(
        aux.AuxiliaryError, match=r"^term 'a': its target function: the sentence of a library function$"
    ):
        run(a=TAPPED(target=complete))


@pytest.mark.parametrize("inside", ["loss", "head", "target", "rule"])
def test_objective_inside_gradient_checkpointing(inside):
    """torch stops the recomputation with a private exception, which must pass through user functions unchanged."""
    model = stack()

    def half(*given):
        return checkpoint(lambda x: x.sin().cos(), given[0].float(), use_reentrant=False)

    def loss(prediction, target):
        if inside == "head":
            return prediction.mean()  # which saves nothing, so that the recomputation stops in the head
        return F.cross_entropy(half(prediction) if inside == "loss" else prediction, target)

    def target(y):
        half(model.out.weight)
        return y

    def rule(values):
        half(model.out.weight)
        return {}

    class Head(nn.Module):
        def forward(self, state):
            return half(state)

    def total(x):
        fields = {"target": {"target": target}, "head": {"head": Head()}}.get(inside, {})
        objective = aux.Objective(term(loss, **fields), rule=rule if inside == "rule" else None)
        return objective(model, x, Y).total

    checkpoint(total, X.clone().requires_grad_(), use_reentrant=False).backward()
    assert model.out.weight.grad.isfinite().all()


def test_torch_error_is_the_cause():
    with pytest.raises(aux.AuxiliaryError) as error:
        run(a=term(tap="layers.0", head=nn.Linear(9, 3)))
    assert isinstance(error.value.__cause__, RuntimeError)


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


def test_intermediate_terms_of_model_of_layers_only():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    assert list(aux.intermediate_terms(model, "*", F.cross_entropy)) == ["layer1", "layer2"]
