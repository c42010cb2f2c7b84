"""Presets that return terms, called with wrong arguments: one sentence each."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from auxiliary.one_sentence import assert_one_sentence
from auxiliary.small_objective import HEAD, run
from charladder import auxiliary as aux
from charladder.auxiliary import presets

EMBEDDING = nn.Embedding(3, 8)
CHAINED = aux.heads.ChainedModule(8, nn.Linear(8, 8))
TARGET = aux.tapped("0")
OTHER_FUNCTIONS = {"generalized_iou", "resize_labels"}  # of tensors
MISTAKES = {
    "a head for the next token": (
        lambda: presets.independent_targets("0", {1: nn.Linear(8, 3)}),
        "independent_targets has heads for the offsets [1]; give at least one, for offsets from 2 on",
    ),
    "a chain without modules": (
        lambda: presets.chained_targets("0", [], nn.Embedding(3, 8), HEAD),
        "chained_targets has no modules; give one for each further token",
    ),
    "labels that are not tokens": (
        lambda: run(a=presets.token_order("layers.0", HEAD, window=2)),
        "token_order needs labels of shape (batch, positions), whole numbers with -100",
    ),
    "labels of the z-loss in another shape": (
        lambda: run(a=presets.z_loss(target=lambda t: t[:, None])),
        "z_loss reads logits of shape (6, 3) and labels of shape (6, 1)",
    ),
    "no scales": (lambda: presets.nnunet(F.cross_entropy, 0), "there are no scales, because scales is 0; give at"),
    "scales of a number": (
        lambda: presets.nnunet(F.cross_entropy, 0.5),
        "nnunet: scales is 0.5; it must be a whole number or a sequence of numbers or sequences of numbers",
    ),
    "loss that is no function": (lambda: presets.nnunet(3, 2), "nnunet: loss is 3; it must be a function"),
    "mode that is a list": (lambda: presets.monai(F.cross_entropy, 2, []), "monai() has the mode []; there are exp"),
    "weights of a number": (
        lambda: presets.deep_supervision(F.cross_entropy, 2, 0.5),
        "deep_supervision: weights is 0.5; it must be a sequence of numbers",
    ),
    "heads in a list": (
        lambda: presets.independent_targets("1", [HEAD]),
        "independent_targets: heads is a list of Linear; it must be a mapping from whole numbers to modules",
    ),
    "heads by text": (
        lambda: presets.independent_targets("1", {"2": HEAD}),
        "independent_targets: heads is a dict of str: Linear; it must be a mapping",
    ),
    "heads in a mapping": (
        lambda: presets.leap_targets("1", {2: HEAD}),
        "leap_targets: heads is a dict of int: Linear; it must be a sequence of modules",
    ),
    "modules that are numbers": (
        lambda: presets.chained_targets("1", [3], EMBEDDING, HEAD),
        "chained_targets: modules is a list of int; it must be a sequence of modules",
    ),
    "one chained module": (
        lambda: presets.chained_targets("1", CHAINED, EMBEDDING, HEAD),
        "chained_targets: modules is of type ChainedModule; it must be a sequence of modules",
    ),
    "a layer instead of a chained module": (
        lambda: presets.chained_targets("1", [CHAINED, HEAD], EMBEDDING, HEAD),
        "chained_targets has a module of type Linear, which does not take a state and an embedded token; give aux.h",
    ),
    "no argument": (lambda: presets.repa("1"), "repa: missing a required argument: 'target'"),
    "unknown field": (
        lambda: presets.repa("1", TARGET, HEAD, wieght=1.0),
        "repa: a Term has no field 'wieght'; the nearest are weight",
    ),
    "field that the preset has": (
        lambda: presets.repa("1", TARGET, HEAD, head=HEAD),
        "repa: got multiple values for keyword argument 'head'",
    ),
    "future positions of targets in the data": (
        lambda: presets.latent_prediction("1", "features", HEAD, ahead=1),
        "latent_prediction has ahead=1 and a target of type str; give aux.frozen(), aux.tapped() or aux.returned()",
    ),
    "exits in an empty list": (lambda: presets.self_distillation([]), "self_distillation: exits is an empty list; it"),
    "factors in a list": (
        lambda: presets.future_bag("1", HEAD, 2, token_weights=[1, 2]),
        "future_bag: token_weights is a list of int; it must be a tensor or None",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_message_is_one_sentence(name):
    assert_one_sentence(*MISTAKES[name])


def test_every_term_preset_is_checked():
    """Weight presets are in another module, and are called with the arguments that they name."""
    named = {name: getattr(presets, name) for name in presets.__all__}
    functions = {name for name, one in named.items() if getattr(one, "__module__", "").startswith(presets.__name__)}
    assert len(functions - OTHER_FUNCTIONS) >= 18
    for name in functions - OTHER_FUNCTIONS:
        assert_one_sentence(lambda name=name: named[name](nonsense=1), f"{name}: ")


def test_modules_of_torch_and_tensors_are_sequences_and_mappings():
    assert len(presets.self_distillation(nn.ModuleDict({"a": HEAD}))) == 2
    assert presets.chained_targets("1", nn.ModuleList([CHAINED]), EMBEDDING, HEAD).offsets == 2
    assert presets.chained_targets("1", [torch.compile(CHAINED, backend="eager")], EMBEDDING, HEAD).offsets == 2
    assert presets.deep_supervision(F.cross_entropy, (1, (0.5, 0.25)), torch.ones(2))["main"].weight == 1
