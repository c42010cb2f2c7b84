"""Examples in docstrings of the library: they run, and print what the docstring shows."""

import doctest
import importlib
import pkgutil

import pytest

from charladder import auxiliary as aux

MODULES = [
    f"{package.__name__}.{module.name}"
    for package in (aux, aux.presets)
    for module in pkgutil.iter_modules(package.__path__)
]
WITH_EXAMPLE = [
    aux.Objective, aux.Term, aux.diagnose, aux.explain, aux.intermediate_terms, aux.linear_cross_entropy,
    aux.presets.al_rfou, aux.presets.feature_hint, aux.presets.latent_prediction, aux.presets.looped,
    aux.presets.repa, aux.presets.self_distillation, aux.rules.AdaLoss, aux.rules.hinge, aux.schedules.linear,
    aux.schedules.piecewise,
]  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("documented", WITH_EXAMPLE, ids=lambda one: one.__name__)
def test_main_public_names_have_an_example(documented):
    assert doctest.DocTestParser().get_examples(documented.__doc__)
