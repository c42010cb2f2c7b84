"""AuxiliaryLoss of torchtitan, with a stand-in of the same interface: torchtitan itself is not installed."""

import importlib
import sys
import types
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from charladder import auxiliary as aux
from charladder.auxiliary.integrations import _labels

MODULE = "charladder.auxiliary.integrations.torchtitan"


class Configurable:
    """As torchtitan's: a class with a nested Config, whose build() makes the class."""

    @dataclass(kw_only=True, slots=True)
    class Config:
        owner: ClassVar[Any] = None

        def build(self, **runtime: Any) -> Any:
            return self.owner(config=replace(self), **runtime)

    def __init_subclass__(cls) -> None:
        if "Config" in vars(cls):
            assert "__slots__" in vars(cls.Config)
            cls.Config.owner = cls


class BaseLoss(ABC, Configurable):
    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        pass

    @abstractmethod
    def __init__(self, config: Config, *, compile_config: Any = None) -> None: ...


@pytest.fixture
def make(monkeypatch):
    """A function that makes an AuxiliaryLoss of terms, as torchtitan's trainer does."""
    loss = types.ModuleType("torchtitan.components.loss")
    loss.BaseLoss = BaseLoss
    for name, module in (
        ("torchtitan", types.ModuleType("torchtitan")),
        ("torchtitan.components", types.ModuleType("c")),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "torchtitan.components.loss", loss)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    module = importlib.import_module(MODULE)
    yield lambda *terms, **more: module.AuxiliaryLoss.Config(objective=lambda: aux.Objective(*terms, **more)).build(
        compile_config=None
    )
    sys.modules.pop(MODULE, None)


def ahead(labels: torch.Tensor) -> torch.Tensor:
    """The token after the next."""
    return F.pad(labels[1:], (0, 1), value=-100)


def terms(**fields: Any) -> tuple[aux.Term, dict[str, aux.Term]]:
    second = aux.Term(F.cross_entropy, target=ahead, **({"select": 1, "weight": 0.3} | fields))
    return aux.Term(_labels.token_cross_entropy, select=0), {"second": second}


def data() -> tuple[nn.Linear, nn.Linear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.randint(0, 5, (9,))
    labels[3] = -100
    return nn.Linear(4, 5), nn.Linear(4, 5), torch.randn(9, 4), labels


def test_parts_of_a_step_add_up_to_the_total_written_by_hand(make):
    """Two parts, as micro-batches or ranks: torchtitan adds up their losses and gradients."""
    first, second, x, labels = data()
    loss_fn, parts = make(*terms()), (slice(4), slice(4, 9))
    tokens = (labels != -100).sum()
    by_hand, found = 0.0, 0.0
    for part in parts:
        logits, others, target = first(x[part]), second(x[part]), labels[part]
        main = F.cross_entropy(logits, target, reduction="sum")
        auxiliary = F.cross_entropy(others, ahead(target), reduction="sum")
        by_hand = by_hand + (main + 0.3 * auxiliary) / tokens
        loss, measured = loss_fn((logits, others), target, tokens, positions=None)
        found = found + loss
        assert float(measured["second/mean"] * tokens) == pytest.approx(float(auxiliary.detach()))
    torch.testing.assert_close(found, by_hand)
    parameters = [*first.parameters(), *second.parameters()]
    gradients = torch.autograd.grad(found, parameters, retain_graph=True)
    torch.testing.assert_close(gradients, torch.autograd.grad(by_hand, parameters))


def test_validation_is_the_sum_of_the_main_term(make):
    first, second, x, labels = data()
    loss, metrics = make(*terms())((first(x), second(x)), labels)
    torch.testing.assert_close(loss, F.cross_entropy(first(x), labels, reduction="sum"))
    assert metrics == {}


def test_weights_follow_the_progress_that_the_trainer_sets(make):
    first, second, x, labels = data()
    loss_fn, tokens = make(*terms(weight=aux.schedules.until(0.5, 0.3))), torch.tensor(8)
    with pytest.raises(aux.AuxiliaryError, match="its weight depends on the progress"):
        loss_fn((first(x), second(x)), labels, tokens)
    loss_fn.progress = 0.6
    loss, metrics = loss_fn((first(x), second(x)), labels, tokens)
    torch.testing.assert_close(loss, F.cross_entropy(first(x), labels, reduction="sum") / 8)
    assert set(metrics) == {"main/mean"}


MISTAKES = {
    "tap": (
        {"select": None, "tap": "layers.0"},
        {},
        "term 'second' reads the module layers.0",
    ),
    "head": ({"head": nn.Linear(5, 5)}, {}, "a head or loss with parameters would not be trained"),
    "rule": ({}, {"rule": aux.rules.hinge(0.5)}, "a rule needs the losses of all ranks"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_torchtitan_cannot_train_is_refused(make, name):
    fields, more, message = MISTAKES[name]
    with pytest.raises(aux.AuxiliaryError, match=message):
        make(*terms(**fields), **more)


def test_missing_library_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.setitem(sys.modules, "torchtitan", None)
    with pytest.raises(ModuleNotFoundError, match="AuxiliaryLoss needs torchtitan"):
        importlib.import_module(MODULE)
