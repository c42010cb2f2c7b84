"""Error messages: one sentence that names the term, what is wrong and what to do. Terms, taps, heads and targets."""

import pytest
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from auxiliary.one_sentence import assert_one_sentence
from auxiliary.small_objective import HEAD, TAPPED, X, Y, run
from auxiliary.test_objective import CallsLayerThreeTimes, OnlyLastCallHasGradients, Predicts, stack, term
from charladder import auxiliary as aux


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


MISTAKES = {
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
    "unclear part": (
        lambda: run(model=lambda x: {"loss": None, "logits": x}, inputs=X),
        "it is not clear which part of it is meant; say so with Term(select=...); there are loss, logits",
    ),
    "DataParallel": (
        lambda: run(model=nn.DataParallel(stack()), a=TAPPED()),
        "nn.DataParallel cannot be tapped, because it runs copies of the model; use DistributedDataParallel",
    ),
    "order that lacks a term": (
        lambda: aux.Objective(term(), {"a": term()}, order=["main"]),
        "it must have every term",
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
    "layer past the last": (lambda: term(layer=9, layers=4), "a Term has layer 9 of 4; layers go from 1 to layers="),
    "layer 0": (lambda: term(layer=0, layers=4), "a Term has layer 0 of 4"),
    "offset past the last": (lambda: term(offset=2), "a Term has offset 2 of 1; offsets go from 1 to offsets="),
    "tap that is a module": (lambda: term(tap=HEAD), "a Term's tap is of type Linear; give the name of a module"),
    "function instead of a term": (
        lambda: aux.Objective(term(), {"a": F.cross_entropy}),
        "it must have a Term by each name",
    ),
    "empty name": (lambda: aux.Objective(term(), {"": term()}), "it must have a Term by each name"),
    "check that is a number": (lambda: aux.Objective(term(), check=1), "check is 1; it must be True, False"),
    "tapped without a name": (lambda: aux.tapped(3), "tapped(3): give the name of a module"),
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
}


@pytest.mark.parametrize("name", MISTAKES)
def test_message_is_one_sentence(name):
    assert_one_sentence(*MISTAKES[name])


def test_torch_error_is_the_cause():
    with pytest.raises(aux.AuxiliaryError) as error:
        run(a=term(tap="layers.0", head=nn.Linear(9, 3)))
    assert isinstance(error.value.__cause__, RuntimeError)


def test_intermediate_terms_of_model_of_layers_only():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    assert list(aux.intermediate_terms(model, "*", F.cross_entropy)) == ["layer1", "layer2"]
