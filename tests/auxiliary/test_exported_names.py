"""Public names of the auxiliary library. Adding, renaming or removing one changes this file."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

from charladder import auxiliary
from charladder.auxiliary import integrations

EXPORTED = {
    "AuxiliaryError", "Diagnosis", "NotFiniteError", "Objective", "Report", "Row", "Term", "TermReport",
    "by_depth", "cross_entropy", "diagnose", "distributed", "draw_depths", "explain", "frozen", "gradients",
    "heads", "intermediate_terms", "linear_cross_entropy", "losses", "merge", "presets", "returned", "rules",
    "schedules", "tapped", "term_name", "weights",
}  # fmt: skip
PUBLIC_MODULES = {
    "cross_entropy", "distributed", "gradients", "heads", "losses", "presets", "rules", "schedules", "weights",
}  # fmt: skip
INTEGRATIONS = {  # that of torchtitan: test_torchtitan.py
    "transformers": {"HEADS_FILE", "AuxiliaryTrainerMixin", "model_loss", "next_tokens", "token_cross_entropy"},
}


def test_exported_names():
    assert set(auxiliary.__all__) == EXPORTED
    assert all(hasattr(auxiliary, name) for name in EXPORTED)


def test_every_other_module_is_private():
    modules = {module.name for module in pkgutil.iter_modules(auxiliary.__path__)}
    assert {name for name in modules if not name.startswith("_")} == PUBLIC_MODULES | {"integrations"}


@pytest.mark.parametrize("name", INTEGRATIONS)
def test_exported_names_of_an_integration(name):
    module = importlib.import_module(f"charladder.auxiliary.integrations.{name}")
    assert set(module.__all__) == INTEGRATIONS[name]
    assert all((getattr(module, exported).__doc__ or "").strip() for exported in INTEGRATIONS[name])


def test_integrations_are_modules_of_frameworks():
    found = {module.name for module in pkgutil.iter_modules(integrations.__path__)}
    assert {name for name in found if not name.startswith("_")} == {*INTEGRATIONS, "torchtitan"}


def test_the_library_imports_no_framework():
    code = "import sys, charladder.auxiliary; print({'transformers', 'accelerate', 'lightning'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", sorted(EXPORTED))
def test_every_exported_name_has_a_docstring(name):
    assert (getattr(auxiliary, name).__doc__ or "").strip()


def is_defined_by(one, module):
    """Whether a public module defines a name, or is a package that exports it."""
    return one.__module__ == module.__name__ or one.__name__ in getattr(module, "__all__", ())


@pytest.mark.parametrize("name", sorted(PUBLIC_MODULES))
def test_every_public_function_of_a_public_module_has_a_docstring(name):
    module = importlib.import_module(f"charladder.auxiliary.{name}")
    defined = [
        one
        for one in vars(module).values()
        if (inspect.isfunction(one) or inspect.isclass(one)) and is_defined_by(one, module)
    ]
    assert defined
    assert not [one.__name__ for one in defined if not one.__name__.startswith("_") and not (one.__doc__ or "").strip()]
