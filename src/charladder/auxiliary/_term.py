"""One term of an objective, as the user writes it."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from torch import nn

from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._modules import is_pattern
from charladder.auxiliary._parts import check_part_weights
from charladder.auxiliary._select import is_mapping, is_tuple
from charladder.auxiliary._target_sources import TappedTarget
from charladder.auxiliary.weights import TermPlace, Weight, WeightFunction, make_weight_function

MAIN = "main"
# What picks a part of a container: a key or index, several in turn, or a function.
Selector = Any


class DefaultTarget(Enum):
    """The target of a term that does not set one: see Term. An enum, so that copies and pickles are the same object."""

    DEFAULT = "default"


DEFAULT_TARGET = DefaultTarget.DEFAULT


@dataclass(frozen=True)
class Term:
    """A loss, and where its prediction and its target come from. Everything but the loss may be left out.

    >>> import torch.nn.functional as F
    >>> from charladder import auxiliary as aux
    >>> term = aux.Term(F.cross_entropy, tap="encoder.layers.4", head=aux.heads.linear(10), weight=0.3)
    >>> term.tap, term.weight
    ('encoder.layers.4', 0.3)

    loss: `loss(prediction, target)`; returns a scalar (a mean), a value per element, or a pair (sum, count). Of values
    per element, those count whose integer target is not -100. It may return a mapping of named parts, each of them one
    of these forms: the term is the sum of the parts' means, and the report has each part by name.
    parts: the weight of each part that the loss returns, by name; 1 for each if left out. A part of weight 0 is
    reported and not trained. Several processes need it: all must have the same parts.
    tap: the name of a module of the model (as in `model.named_modules()`) whose output is read, or a pattern in which
    `*` stands for one part of a name: `encoder.layers.*` makes one term of each module that matches. None: the
    prediction is one that the model returns.
    select: the part of what the model (or the tapped module) returns: a key, an index, an attribute, a tuple of these
    one after the other, or a function. `()` is all of it. Left out: of what a tapped module returns, the first part; of
    the model's output, the part with the term's name, or else by order from `(main, (first, second))`. An index picks
    from a list, tuple or mapping, not from a tensor, whose first dimension is that of the samples.
    head: turns the tapped output into a prediction. A module belongs to the objective (or to the model, if it is one of
    the model's); a string names a module of the model; a function makes the module from the shape of its input
    (heads.linear(10)) when `objective.build` is called. None: the tapped output is the prediction. With a pattern, all
    terms share a module, and a function makes one for each.
    weight: a number, a function of progress (schedules), a function of the term's layer and offset, or a preset's name.
    target: the part of `targets` to compare with: a key, or a function of `targets`. Left out: `targets` itself, or its
    entry under the term's name if it is a mapping. None: the loss takes the prediction alone. A target that is not in
    the data: `tapped("layers.8")`, another module's output; `returned("hidden")`, a part of the model's output; or
    `frozen(network)`, the output of another network.
    mask: like target. Booleans and integers: the elements of the loss that are not 0 count. Floating-point numbers, at
    least 0: weights of the elements; the term is their weighted mean, and its count the sum of the weights. Needs a
    loss with a value per element.
    count: of how many predictions a scalar is the mean: a number, or a function of the target (of `targets`, if the
    target is not in the data). Left out: the divisor of a torch loss (a function, a module, or one with keyword
    arguments bound). The count of other functions is unknown; their scalars are refused under `counts=` and in several
    processes. A term with a count of 0 adds 0. For a loss with parts: one number for all, or a mapping (or a
    function that returns one) by the parts' names.
    call: which call of a tapped module, if the model calls it several times: 0 the first, -1 the last, or "all": the
    loss takes a list of predictions.
    detach_tap: the term trains the head, but not the model. detach_head: the term does not train the head.
    measure: the term is reported, without gradients, where its weight is 0: it is logged and not trained.
    target_name: the key of the term's target in `targets`, if it is not the term's name: the terms of a pattern share
    the pattern's name.
    layer, layers, offset, offsets: the term's layer and target offset, for weights that depend on them.
    """

    loss: Callable[..., Any]
    tap: str | None = None
    select: Selector = None
    head: nn.Module | str | Callable[..., nn.Module] | None = None
    weight: Weight = 1.0
    target: Any = DEFAULT_TARGET
    mask: Any = None
    count: float | Mapping[str, float] | Callable[[Any], Any] | None = None
    call: int | str | None = None
    detach_tap: bool = False
    detach_head: bool = False
    measure: bool = False
    parts: Mapping[str, float] | None = None
    target_name: str | None = None
    layer: int | None = None
    layers: int | None = None
    offset: int = 1
    offsets: int = 1
    # The names of the modules whose outputs the term reads: its tap, and that of its target. Found once, because each
    # call reads them, and not by functools.cached_property, whose lock torch.compile cannot trace.
    tapped_names: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise AuxiliaryError(f"a Term's loss is {self.loss!r}; it must be a function of a prediction and a target")
        if not isinstance(self.tap, str | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise AuxiliaryError(f"a Term's tap is of type {type(self.tap).__name__}; give the name of a module")
        if self.call is not None and self.tap is None:
            raise AuxiliaryError(f"a Term has call={self.call!r} and no tap; give tap=, or leave call= out")
        if self.mask is not None and self.count is not None:
            raise AuxiliaryError("a Term has a mask and a count, and the mask says what counts; leave one of them out")
        if self.parts is not None:
            check_part_weights(self.parts)
        if self.detach_head and self.head is None:
            raise AuxiliaryError("a Term has detach_head=True and no head; give head=, or leave it out")
        if self.layer is not None and not 1 <= self.layer <= (self.layers or 0):
            raise AuxiliaryError(f"a Term has layer {self.layer} of {self.layers}; layers go from 1 to layers=")
        if not 1 <= self.offset <= max(1, self.offsets):
            raise AuxiliaryError(f"a Term has offset {self.offset} of {self.offsets}; offsets go from 1 to offsets=")
        target_tap = self.target.tap if isinstance(self.target, TappedTarget) else None
        names = tuple(name for name in (self.tap, target_tap) if name is not None)
        object.__setattr__(self, "tapped_names", names)

    def place(self, main: bool = False) -> TermPlace:
        """The term's layer and offset, for weight functions."""
        return TermPlace(self.layer, self.layers, self.offset, self.offsets, main)


class Terms(Mapping[str, Term]):
    """The terms of an objective by name. Read-only: heads, hooks and weights are made from them once."""

    def __init__(self, terms: Mapping[str, Term]) -> None:
        self.by_name = dict(terms)  # for the calls of an objective, which read it often; not to be changed

    def __getitem__(self, name: str) -> Term:
        return self.by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)

    def weight_functions(self) -> dict[str, WeightFunction]:
        """The weight of every term as a function of progress and step. The main term is the last layer."""
        layers = max((term.layers or 1 for term in self.values()), default=1)
        places = {name: term.place(name == MAIN) for name, term in self.items()}
        if places[MAIN].layer is None:
            places[MAIN] = dataclasses.replace(places[MAIN], layer=layers, layers=layers)
        return {name: make_weight_function(name, term.weight, places[name]) for name, term in self.items()}

    def in_order(self, order: list[str]) -> "Terms":
        """The same terms in another order. Raises AuxiliaryError if the order does not have every term once."""
        if sorted(order) != sorted(self):
            raise AuxiliaryError(f"order is {order}; it must have every term once: {', '.join(self)}")
        return Terms({name: self[name] for name in order})

    def __setitem__(self, name: str, term: Term) -> None:
        raise _read_only(name)

    def __delitem__(self, name: str) -> None:
        raise _read_only(name)


def collect_terms(main: Any, auxiliary: Any) -> Terms:
    """The terms given to an Objective, by name, the main one first. Raises AuxiliaryError for what is not a term."""
    terms: dict[str, Term] = {MAIN: main}
    for pair in auxiliary.items() if is_mapping(auxiliary) else auxiliary:
        if not is_tuple(pair) or len(pair) != 2:
            raise AuxiliaryError(f"auxiliary has a {type(pair).__name__} without a name; give a dict of terms by name")
        name, term = pair
        if not isinstance(name, str) or not name or not isinstance(term, Term):
            raise AuxiliaryError(f"auxiliary has {name!r}: {type(term).__name__}; it must have a Term by each name")
        if name in terms:
            raise two_terms(name)
        terms[name] = term
    if not isinstance(main, Term):
        raise AuxiliaryError(f"main is of type {type(main).__name__}; give a Term, such as Term(F.cross_entropy)")
    if main.tap is not None and is_pattern(main.tap):
        raise AuxiliaryError("main must be one Term, and its tap one module's name, not a pattern")
    return Terms(terms)


def two_terms(name: str) -> AuxiliaryError:
    """The error to raise for two terms of one name."""
    return AuxiliaryError(f"there are two terms called {name!r}; give each a name of its own")


def _read_only(name: str) -> AuxiliaryError:
    return AuxiliaryError(
        f"term {name!r} cannot be replaced, added or removed after the objective is made; make a new Objective, or let "
        "Term(weight=...) be a function that changes the weight"
    )
