"""The objective: a main loss and auxiliary ones, as one weighted sum that is divided once.

    total = main + 0.4 * coarse + 0.8 * layer4

Each term is a mean over a global count (over micro-batches and ranks), times its weight at this moment. A term whose
weight is zero costs nothing: its head is not called, and what it would have read is not kept.
"""

import contextlib
import copy
import dataclasses
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from charladder.auxiliary import distributed
from charladder.auxiliary._aggregate import (
    Rule,
    check_counted,
    check_counts,
    check_scalars,
    measure_all,
    report_terms,
    rule_factors,
    scale,
)
from charladder.auxiliary._build_heads import make_head, trainable_dtypes
from charladder.auxiliary._counts import Count, TargetCounts, as_exact, count_targets, replace_zero
from charladder.auxiliary._errors import AuxiliaryError, nearest
from charladder.auxiliary._expansion import expand, has_patterns
from charladder.auxiliary._predictions import TapOutputs, mask_of, read_predictions, target_of
from charladder.auxiliary._report import Report, check_finite
from charladder.auxiliary._select import tensors_in
from charladder.auxiliary._shared_tensors import keep_shared, leave_out_shared
from charladder.auxiliary._state_keys import module_keys
from charladder.auxiliary._taps import SubmoduleBoundary, Taps, is_pattern, modules_of
from charladder.auxiliary._term import MAIN, Term, Terms
from charladder.auxiliary._wrappers import unwrap, unwrapping_levels
from charladder.auxiliary._zero_losses import zero_loss
from charladder.auxiliary.weights import WeightFunction, check_progress, make_weight_function

_ATTACHING = threading.Lock()  # threads may share an objective, and make its first call together


class Objective(SubmoduleBoundary):
    """The training loss of any model, and the heads that it needs.

    main: the term of the model's own prediction. auxiliary: the others, by name; a mapping, or pairs of name and term.
    model: attaches to it at once, instead of at the first call; do so before a compiled model first runs.
    rule: changes the weights by what the losses are (rules.AdaLoss(), an own function); a module is trained along.
    order: the names in the order in which their losses are added; the main one first, unless given.
    check: whether NaN and infinity are looked for at each call (on a GPU this waits for the result).
    wrapped: this objective is inside the module that FSDP2 shards, beside the model, so the gradients of its heads are
    averaged there. DDP around such a module, DDP around the objective, and a model that holds its objective are found
    without this.

    Its parameters are those of the heads, and of loss modules and rules that have any; what belongs to the model stays
    the model's, once this is attached to it. Optimise both: `Adam([*model.parameters(), *objective.parameters()])`.
    Its training mode is its own: call `objective.eval()` beside `model.eval()` where heads have dropout or batch
    statistics, and `objective.train()` beside `model.train()`. The parts of the model in a head keep the model's mode.
    Where several processes train, all of them make every call, those for validation too: sums are taken over all.
    """

    def __init__(
        self,
        main: Term,
        auxiliary: Mapping[str, Term] | Iterable[tuple[str, Term]] = (),
        *,
        model: nn.Module | None = None,
        rule: Rule | None = None,
        order: Iterable[str] | None = None,
        check: bool = True,
        wrapped: bool = False,
    ) -> None:
        super().__init__()
        terms: dict[str, Term] = {MAIN: main}
        pairs: Any = auxiliary.items() if isinstance(auxiliary, Mapping) else auxiliary
        for name, term in pairs:
            if not isinstance(name, str) or not name or not isinstance(term, Term):
                raise AuxiliaryError(f"auxiliary has {name!r}: {type(term).__name__}; it must have a Term by each name")
            if name in terms:
                raise AuxiliaryError(f"there are two terms called {name!r}; give each a name of its own")
            terms[name] = term
        self._terms = Terms(terms)
        if not isinstance(main, Term) or (main.tap is not None and is_pattern(main.tap)):
            raise AuxiliaryError("main must be one Term, and its tap one module's name")
        self.rule, self.check, self.wrapped = rule, check, wrapped
        self.order = None if order is None else list(order)
        self.heads, self.losses = nn.ModuleDict(), nn.ModuleDict()
        self.attached: list[nn.Module] = []  # none or one; in a list, or nn.Module would take it for a part of this
        self.removed = False
        self.taps, self.head_gradients = Taps(), distributed.HeadGradients()
        self.register_state_dict_post_hook(leave_out_shared)
        self.register_load_state_dict_pre_hook(keep_shared)
        self.prepare()
        if model is not None:
            self.attach(model)

    # What there is before any call.

    @property
    def terms(self) -> Terms:
        """The terms by name, the main one among them, in the order in which they are added up."""
        return self._terms

    @terms.setter
    def terms(self, terms: Any) -> None:
        raise AuxiliaryError("the terms of an objective cannot be replaced; make a new Objective")

    def prepare(self) -> None:
        """Owns heads and losses, and makes weights into functions."""
        self.own()
        self.weigh()

    def own(self) -> None:
        """Registers heads and losses as submodules, each once, without those that are the model's."""
        theirs = {id(module) for model in self.attached for module in modules_of(model)}
        foreign = self.foreign
        theirs |= {id(head) for head in self.heads.values() if foreign >= set(map(id, head.parameters())) != set()}
        for key in [key for key, head in self.heads.items() if id(head) in theirs]:
            del self.heads[key]
        keys = module_keys(self.terms)
        for name, term in self.terms.items():
            for modules, part in ((self.heads, term.head), (self.losses, term.loss)):
                if not isinstance(part, nn.Module) or id(part) in theirs:
                    continue
                if all(part is not one for one in modules.values()):
                    key = keys[name]
                    while key in modules:
                        key += "_"
                    modules[key] = part

    def weigh(self) -> None:
        """Makes the weights into functions, and puts the terms into their order."""
        self.weighers: dict[str, WeightFunction] = {}
        if has_patterns(self.terms):
            return  # terms are known when the model is
        depth = max((term.layers or 1 for term in self.terms.values()), default=1)
        places = {name: term.place(name == MAIN) for name, term in self.terms.items()}
        if places[MAIN].layer is None:
            places[MAIN] = dataclasses.replace(places[MAIN], layer=depth, layers=depth)
        self.weighers = {
            name: make_weight_function(name, term.weight, places[name]) for name, term in self.terms.items()
        }
        if self.order is not None:
            if sorted(self.order) != sorted(self.terms):
                raise AuxiliaryError(f"order is {self.order}; it must have every term once: {', '.join(self.terms)}")
            self._terms = Terms({name: self.terms[name] for name in self.order})

    @property
    def foreign(self) -> set[int]:
        """The ids of the model's parameters, some of which a head may have too. Computed at each call, because a model
        may replace its parameters."""
        modules = [module for model in self.attached for module in modules_of(model)]
        return {id(parameter) for module in modules for parameter in module._parameters.values()}

    def named_parameters(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Any:
        """As nn.Module's, without the parameters that the model owns."""
        foreign = self.foreign
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            if id(parameter) not in foreign:
                yield name, parameter

    def train(self, mode: bool = True) -> Self:
        """As nn.Module's, without the parts of the model that heads have. The model has a mode of its own."""
        modes = {module: module.training for model in self.attached for module in modules_of(model)}
        super().train(mode)
        for module, training in modes.items():
            module.training = training
        return self

    def weights(self, progress: float | None = None, step: int | None = None) -> dict[str, float]:
        """The weight of every term at this moment, silent ones at 0.

        Raises AuxiliaryError for a progress outside [0, 1], and before a model is known to the patterns among taps.
        """
        check_progress(progress)
        if has_patterns(self.terms):
            raise AuxiliaryError("some taps are patterns; attach(model) says which terms there are")
        return {name: weigh(progress, step) for name, weigh in self.weighers.items()}

    # The model.

    def attach(self, model: nn.Module) -> Self:
        """Finds the taps in a model and puts hooks there; happens by itself at the first call.

        Raises AuxiliaryError for a tap or a head that is not there, and where this is attached to another model.
        """
        base = self.base_of(model)
        if not isinstance(base, nn.Module):
            raise AuxiliaryError("some terms have taps or heads, and the model is a plain function; give the nn.Module")
        if self.taps.model is base:
            return self
        with _ATTACHING:
            if self.taps.model is not base:  # which another thread may have changed
                self.attach_to(base)
        return self

    def attach_to(self, base: nn.Module) -> None:
        if self.attached:
            raise AuxiliaryError("this objective is attached to another model; make one for each, or remove() it first")
        before = self.terms
        self._terms, self.attached = Terms(expand(base, before)), [base]
        try:
            self.prepare()
        except AuxiliaryError:
            self._terms, self.attached = before, []
            raise
        taps = dict.fromkeys(term.tap for term in self.terms.values() if term.tap is not None)
        heads = {term.head for term in self.terms.values() if isinstance(term.head, str)}
        given = {name: term.head for name, term in self.terms.items() if isinstance(term.head, nn.Module)}
        self.taps.attach(base, taps, heads, given)
        self.removed = False

    def base_of(self, model: Any) -> Any:
        """The model inside its wrappers: the one that this is attached to, or the innermost that has all taps."""
        for level in unwrapping_levels(model):
            if any(level is known for known in self.attached):
                return level
        places = [place for term in self.terms.values() for place in (term.tap, term.head)]
        return unwrap(model, [place for place in places if isinstance(place, str)])

    def build(self, model: nn.Module, inputs: Any) -> Self:
        """Makes the heads that are given as functions of a shape, from one forward pass; before the optimizer is made.

        The pass runs without gradients, in evaluation mode, and leaves the model and the random numbers as they were.
        A head has the device and the dtype of what it reads; under autocast and mixed precision, that of the model's
        parameters.
        """
        self.attach(model)
        waiting = {
            name: term
            for name, term in self.terms.items()
            if callable(term.head) and not isinstance(term.head, nn.Module)
        }
        known = trainable_dtypes(self.attached[0])
        modes = {module: module.training for module in self.attached[0].modules()}
        devices = {p.device for p in self.attached[0].parameters() if p.is_cuda}
        try:
            self.attached[0].eval()
            with torch.no_grad(), torch.random.fork_rng(list(devices)):
                output, caught = self.run(model, inputs, waiting)
                seen = {name: read_predictions(name, self.terms, output, caught, model) for name in waiting}
        finally:
            for module, mode in modes.items():
                module.training = mode
        made = {}
        for name, term in waiting.items():
            state = seen[name][0] if isinstance(seen[name], list) else seen[name]
            maker: Any = term.head
            made[name] = dataclasses.replace(term, head=make_head(name, maker, state, known))
        self._terms = Terms({**self.terms, **made})
        self.prepare()
        return self

    def __getstate__(self) -> dict[str, Any]:
        """A copy is attached to no model, and has no hooks on any."""
        state = dict(self.__dict__)
        del state["weighers"], state["attached"], state["taps"], state["head_gradients"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.head_gradients = distributed.HeadGradients()
        if "attached" not in state:
            self.attached, self.removed, self.taps = [], False, Taps()
            self.own()
        self.weigh()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """As __getstate__ says. But when the model is copied too, for example because it holds this objective, the copy
        is attached to the copied model, whose hooks are copies as well."""
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        state = self.__getstate__()
        if self.attached and id(self.attached[0]) in memo:
            state |= {"attached": self.attached, "taps": self.taps}
        new.__setstate__(copy.deepcopy(state, memo))
        return new

    def remove(self) -> None:
        """Takes the hooks off the model, which is then as it was. `attach` puts them on again."""
        self.taps.remove()
        self.attached.clear()
        self.removed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    # A call.

    def forward(
        self,
        model: Callable[..., Any],
        inputs: Any,
        targets: Any = None,
        *,
        progress: float | None = None,
        step: int | None = None,
        counts: Mapping[str, Count] | None = None,
    ) -> Report:
        """Runs the model and measures every active term.

        inputs: what the model takes; a tuple is spread over its arguments, a mapping over its keyword arguments.
        targets: see Term. progress: in [0, 1]. step: for weights that move every step.
        counts: under gradient accumulation, how many predictions each term has in the whole batch of this process
        (`objective.counts`); those of this call when None. Over ranks they are added up here.
        Raises AuxiliaryError that names the term; NotFiniteError for a loss that is NaN or infinite.
        """
        self.check_usable()
        self.meet(self.base_of(model))
        weights, wrappers = self.weights(progress, step), distributed.ParallelWrappers(model)
        output, caught = self.run(model, inputs, [name for name, weight in weights.items() if weight != 0])
        return self.assemble(output, targets, weights, caught, counts, model, wrappers)

    def from_output(
        self,
        output: Any,
        targets: Any = None,
        *,
        progress: float | None = None,
        step: int | None = None,
        counts: Mapping[str, Count] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> Report:
        """The same from what a model has returned; for terms without taps. `weights`: given outright."""
        self.check_usable()
        given = self.weights(progress, step) if weights is None else dict.fromkeys(self.terms, 0.0) | dict(weights)
        strange = [name for name in given if name not in self.terms]
        if strange:
            raise AuxiliaryError(
                f"weights has {strange[0]!r}, and there is no such term{nearest(strange[0], self.terms)}"
            )
        self.check_current([name for name, weight in given.items() if weight != 0])
        return self.assemble(output, targets, given, {}, counts, None, distributed.ParallelWrappers(None))

    def counts(self, batches: Iterable[Any]) -> dict[str, Count]:
        """How many predictions each term has in the targets of several micro-batches together.

        Raises AuxiliaryError for a term whose target does not say it, and that has no count. A loss that turns out to
        count otherwise is refused when it does.
        """
        found = TargetCounts(dict.fromkeys(self.terms, 0))
        for targets in batches:
            for name, term in self.terms.items():
                target, mask = target_of(name, term, targets), mask_of(name, term, targets)
                found[name] = found[name] + count_targets(name, term, target, mask)
        return found

    def check_usable(self) -> None:
        if self.removed:
            raise AuxiliaryError("this objective was removed from its model; attach(model) it again, or make a new one")

    def meet(self, base: Any) -> None:
        """Attaches to a model where that is needed; a second one is an error only for taps and heads by name."""
        needed = any(term.tap is not None or isinstance(term.head, str) for term in self.terms.values())
        useful = isinstance(base, nn.Module) and (len(self.heads) or len(self.losses)) and not self.attached
        if needed or useful:
            self.attach(base)

    def check_current(self, active: Iterable[str]) -> None:
        """Raises AuxiliaryError where a module that an active term reads or calls was replaced after `attach`."""
        for base in self.attached:
            for name in active:
                term = self.terms[name]
                self.taps.check_current(name, base, term.tap, term.head)

    def run(self, model: Callable[..., Any], inputs: Any, active: Iterable[str]) -> tuple[Any, TapOutputs]:
        """One forward pass: what the model returned, and what the taps of active terms caught."""
        active = list(active)
        self.check_current(active)
        taps = (self.terms[name].tap for name in active)
        with self.taps.recording(tap for tap in taps if tap is not None) as caught:
            if isinstance(inputs, Mapping):
                output = model(**inputs)
            else:
                output = model(*inputs) if type(inputs) is tuple else model(inputs)
        return output, caught

    def assemble(
        self,
        output: Any,
        targets: Any,
        weights: Mapping[str, float],
        caught: TapOutputs,
        counts: Mapping[str, Count] | None,
        model: Any,
        wrappers: distributed.ParallelWrappers,
    ) -> Report:
        """Predictions, losses, and their weighted sum."""
        if counts is not None:
            check_counts(self.terms, counts)
        active = [name for name in self.terms if weights[name] != 0]
        world, learns = distributed.world_size(), torch.is_grad_enabled()
        if learns and wrappers.of_model is not None:
            self.check_heads_outside(wrappers.of_model, active)
        if world > 1 and learns and not self.wrapped and not self.sharded():
            # Before a head is called: the first time, its numbers change.
            held = wrappers.held()
            own, used = self.parameters(), self.taking_part(active)
            self.head_gradients.prepare(
                model, (p for p in own if id(p) not in held), (p for p in used if id(p) not in held)
            )
        measured = measure_all(self.terms, active, self.taps.modules, output, targets, caught, model)
        if world > 1 or counts is not None:
            check_scalars(measured)
        if isinstance(counts, TargetCounts):
            check_counted(self.terms, measured, targets)
        terms, divisors = report_terms(measured, weights, counts, world)
        factors, penalty = rule_factors(self.rule, self.terms, terms)
        total, parts = None, {}
        for name, one in measured.items():
            part = one.loss * scale(weights[name], one, divisors[name], world)
            if name in factors:
                part = part * factors[name]
                terms[name].weight *= float(torch.as_tensor(factors[name]).detach())
            parts[name] = part
            total = part if total is None else total + part
        if penalty is not None:
            if counts is not None:  # this micro-batch's part of it
                name = MAIN if MAIN in measured else next(iter(measured))
                part = as_exact(terms[name].count) / replace_zero(divisors[name])
                penalty = penalty * torch.as_tensor(part).to(penalty)
            total = penalty if total is None else total + penalty
        if total is None:  # every term is silent: there is nothing to learn, and backward is no error
            total = torch.zeros((), requires_grad=torch.is_grad_enabled())
        if self.check:
            check_finite(total, terms)
        if learns and wrappers.strict:
            total = total + self.answer_for_silent(output, weights, wrappers).to(total)
        return Report(total, terms, parts)

    def taking_part(self, active: Iterable[str]) -> list[nn.Parameter]:
        """The parameters of this objective that get a gradient when these terms are active."""
        modules: list[Any] = [self.rule]
        for name in active:
            term = self.terms[name]
            modules += [term.loss] if term.detach_head else [term.head, term.loss]
        found = {id(p): p for m in modules if isinstance(m, nn.Module) for p in m.parameters()}
        foreign = self.foreign
        return [parameter for key, parameter in found.items() if key not in foreign]

    def sharded(self) -> bool:
        """Whether FSDP2 shards this objective: by itself, or with the model that holds it."""
        whole = [model for model in self.attached if distributed.shards(model)]
        return distributed.shards(self) or any(module is self for model in whole for module in model.modules())

    def check_heads_outside(self, ddp: DistributedDataParallel, active: Iterable[str]) -> None:
        """Raises AuxiliaryError where DDP would take heads for unused that are called after its forward pass."""
        heads = {id(parameter) for parameter in self.taking_part(active)}
        if ddp.find_unused_parameters and heads & distributed.parameter_ids(ddp.module):
            raise AuxiliaryError(
                "the model holds its objective, and DDP with find_unused_parameters=True takes heads that are called "
                "after the model's forward pass for unused; leave find_unused_parameters out, since silent heads get "
                "gradients of zero here"
            )

    def answer_for_silent(
        self, output: Any, weights: Mapping[str, float], wrappers: distributed.ParallelWrappers
    ) -> Tensor:
        """0, with gradients of zero for what DDP waits for and no active term uses: predictions that the model returns,
        heads, loss modules, and a rule."""
        unused: list[Tensor] = []
        modules: list[Any] = [self.rule]
        for name, term in self.terms.items():
            if weights[name] == 0 and term.tap is None:
                with contextlib.suppress(AuxiliaryError):  # a model may leave out what no term reads
                    unused += tensors_in(read_predictions(name, self.terms, output, {}, None))
            if weights[name] == 0 or term.detach_head:
                head = self.taps.modules.get(term.head) if isinstance(term.head, str) else term.head
                modules += [head, term.loss]
        waited_for = wrappers.held(strict=True)
        parameters = {id(p): p for module in modules if isinstance(module, nn.Module) for p in module.parameters()}
        unused += [parameter for key, parameter in parameters.items() if key in waited_for]
        return zero_loss(unused)
