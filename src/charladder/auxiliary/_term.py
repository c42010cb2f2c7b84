"""One term of an objective, as its owner writes it down."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import nn

from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary.weights import TermPlace, Weight

MAIN = "main"
# What picks a part of something: a key or index, several in turn, or a function.
Selector = Any


class Same(Enum):
    """The target of a term that says nothing about it: see Term. One of it in the world, copied or not."""

    SAME = "same"


DEFAULT_TARGET = Same.SAME


@dataclass(frozen=True)
class Term:
    """A loss and where its prediction and target come from. Everything but the loss may be left out.

    loss: `loss(prediction, target)`; returns a scalar (a mean), a value per element, or a pair (sum, count). Of values
    per element, those count whose integer target is not -100.
    tap: the name of a module of the model (as in `model.named_modules()`) whose output is read, or a pattern in which
    `*` stands for one part of a name: `encoder.layers.*` makes one term of each module that fits. None: the prediction
    is one that the model returns.
    select: the part of what the model (or the tapped module) returns: a key, an index, an attribute, a tuple of these
    one after the other, or a function. Left out: see `selection.py`. An index picks from a list, tuple or mapping, not
    from a tensor, whose first dimension is that of the samples.
    head: turns what was read into a prediction. A module belongs to the objective (or to the model, where it is one
    of the model's); a string names a module of the model; a function makes the module from the shape it is to read
    (heads.linear(10)) when `objective.build` is called. None: what was read is the prediction. With a pattern, a module
    is shared by all its terms, and a function makes one for each.
    weight: a number, a function of progress (schedules), a function of where the term stands, or a preset's name.
    target: the part of `targets` to compare with: a key, or a function of `targets`. Left out: `targets` itself, or its
    entry under the term's name where it is a mapping. None: the loss takes the prediction alone.
    mask: like target. Booleans and integers: the elements of the loss that are not 0 count. Floating-point numbers, at
    least 0: weights of the elements; the term is their weighted mean, and its count the sum of the weights. Needs a
    loss with a value per element.
    count: of how many predictions a scalar is the mean: a number, or a function of the target. Left out: what a loss of
    torch (a function, a module, or one with keyword arguments bound) divides by. It is not known of other functions,
    whose scalars are refused under `counts=` and in several processes. A term with a count of 0 adds 0.
    call: which call of a tapped module, when the model calls it several times: 0 the first, -1 the last, or "all": the
    loss takes a list of predictions.
    detach_tap: the model learns nothing from this term, only the head. detach_head: the head learns nothing from it.
    target_name: the name under which targets have its entry, where that is not its own: the terms of a pattern
    share one. layer, layers, offset, offsets: where the term stands, for weights that depend on it.
    """

    loss: Callable[..., Any]
    tap: str | None = None
    select: Selector = None
    head: nn.Module | str | Callable[..., nn.Module] | None = None
    weight: Weight = 1.0
    target: Any = DEFAULT_TARGET
    mask: Any = None
    count: float | Callable[[Any], Any] | None = None
    call: int | str | None = None
    detach_tap: bool = False
    detach_head: bool = False
    target_name: str | None = None
    layer: int | None = None
    layers: int | None = None
    offset: int = 1
    offsets: int = 1

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise AuxiliaryError(f"a Term's loss is {self.loss!r}; it must be a function of a prediction and a target")
        if not isinstance(self.tap, str | None):
            raise AuxiliaryError(f"a Term's tap is of type {type(self.tap).__name__}; give the name of a module")
        if self.call is not None and self.tap is None:
            raise AuxiliaryError(f"a Term has call={self.call!r} and no tap whose calls that could mean; give tap=")
        if self.mask is not None and self.count is not None:
            raise AuxiliaryError("a Term has a mask and a count, and the mask says what counts; leave one of them out")
        if self.detach_head and self.head is None:
            raise AuxiliaryError("a Term has detach_head=True and no head; give head=, or leave it out")
        if self.layer is not None and not 1 <= self.layer <= (self.layers or 0):
            raise AuxiliaryError(f"a Term has layer {self.layer} of {self.layers}; layers go from 1 to layers=")
        if not 1 <= self.offset <= max(1, self.offsets):
            raise AuxiliaryError(f"a Term has offset {self.offset} of {self.offsets}; offsets go from 1 to offsets=")

    def place(self, main: bool = False) -> TermPlace:
        return TermPlace(self.layer, self.layers, self.offset, self.offsets, main)


class Terms(Mapping[str, Term]):
    """The terms of an objective by name. They cannot be replaced: heads, hooks and weights are made from them once."""

    def __init__(self, terms: Mapping[str, Term]) -> None:
        self._terms = dict(terms)

    def __getitem__(self, name: str) -> Term:
        return self._terms[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._terms)

    def __len__(self) -> int:
        return len(self._terms)

    def __setitem__(self, name: str, term: Term) -> None:
        raise fixed_terms(name)

    def __delitem__(self, name: str) -> None:
        raise fixed_terms(name)


def fixed_terms(name: str) -> AuxiliaryError:
    return AuxiliaryError(
        f"term {name!r} cannot be replaced, added or removed after the objective is made; make a new Objective, or let "
        "Term(weight=...) be a function that changes the weight"
    )
