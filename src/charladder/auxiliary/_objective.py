"""The objective: a main loss and auxiliary losses, as one weighted sum.

    total = main + 0.4 * coarse + 0.8 * layer4

Each term is a mean over a global count (over micro-batches and ranks), times its weight at this progress. A term whose
weight is 0 is inactive: its head is not called, and its tap records nothing.
"""

import copy
import dataclasses
import threading
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import nn

from charladder.auxiliary import distributed
from charladder.auxiliary._aggregate import Rule, aggregate, measure_all
from charladder.auxiliary._batch_counts import check_counts, count_batches
from charladder.auxiliary._build_heads import make_head, probing, trainable_dtypes
from charladder.auxiliary._counts import PartCounts
from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._expansion import expand, has_patterns
from charladder.auxiliary._finite_check import CheckMode, FiniteCheck
from charladder.auxiliary._frozen_targets import check_frozen
from charladder.auxiliary._head_gradients import HeadGradients, ParallelWrappers, zero_loss_of_unused
from charladder.auxiliary._measured_terms import check_without_taps, chosen_terms, given_weights, measured_terms
from charladder.auxiliary._modules import model_modules
from charladder.auxiliary._predictions import head_input
from charladder.auxiliary._registration import model_parameter_ids, register_modules
from charladder.auxiliary._report import Report
from charladder.auxiliary._select import call_model
from charladder.auxiliary._shared_tensors import keep_shared, leave_out_shared
from charladder.auxiliary._taps import CapturedPass, TapOutputs, Taps
from charladder.auxiliary._targets import ForwardPass
from charladder.auxiliary._term import Term, Terms, collect_terms
from charladder.auxiliary._wrappers import unwrap, unwrapping_levels
from charladder.auxiliary.weights import WeightFunction, check_progress

_ATTACH_LOCK = threading.Lock()  # threads may share an objective, and make its first call together


class Objective(nn.Module):
    """The training loss of any model, and the heads that it needs.

    >>> import torch
    >>> from torch import nn
    >>> from charladder import auxiliary as aux
    >>> model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> early = aux.Term(nn.functional.cross_entropy, tap="0", head=nn.Linear(32, 10), weight=0.3)
    >>> objective = aux.Objective(main=aux.Term(nn.functional.cross_entropy), auxiliary={"early": early})
    >>> report = objective(model, torch.randn(4, 8), torch.tensor([1, 5, 0, 9]))
    >>> report.total.backward()
    >>> [(name, term.weight) for name, term in report.terms.items()]
    [('main', 1.0), ('early', 0.3)]

    main: the term of the model's own prediction. auxiliary: the others, by name; a mapping, or pairs of name and term.
    model: attaches to it at once, instead of at the first call; do so before a compiled model first runs.
    rule: changes the weights according to the losses (rules.AdaLoss(), or a function of your own); a module is trained
    with the heads.
    order: the names in the order in which their losses are added; the main one first, unless given.
    check: when NaN and infinity are reported. True: by each call, which waits for a GPU. "deferred": by a later call,
    or by `finish_checks`; it does not wait. "auto": deferred for losses on an accelerator. False: never. A step that
    torch.compile compiles as a whole is not checked.
    wrapped: this objective is inside the module that FSDP2 shards, beside the model, so that FSDP2 averages the
    gradients of its heads. DDP around such a module, DDP around the objective, and a model that holds its objective
    are detected without this.

    Its parameters are those of the heads, and of loss modules and rules that have any; parameters of the model stay
    the model's, once this is attached to it. Optimise both: `Adam([*model.parameters(), *objective.parameters()])`.
    `model.train()` does not change this module's mode: call `objective.eval()` beside `model.eval()` if heads have
    dropout or batch statistics, and `objective.train()` beside `model.train()`. The parts of the model in a head keep
    the model's mode.
    With several processes, all of them must make every call, those for validation too: sums are taken over all.
    """

    is_submodule_boundary = True  # see _modules.is_boundary

    def __init__(
        self,
        main: Term,
        auxiliary: Mapping[str, Term] | Iterable[tuple[str, Term]] = (),
        *,
        model: nn.Module | None = None,
        rule: Rule | None = None,
        order: Iterable[str] | None = None,
        check: CheckMode = "auto",
        wrapped: bool = False,
    ) -> None:
        super().__init__()
        self._terms = collect_terms(main, auxiliary)
        self.rule, self.wrapped, self._finite_check = rule, wrapped, FiniteCheck(check)
        self.order = None if order is None else list(order)
        self.heads, self.losses = nn.ModuleDict(), nn.ModuleDict()
        self.taps, self._head_gradients = Taps(), HeadGradients()
        self._weight_functions: dict[str, WeightFunction] = {}
        self.register_state_dict_post_hook(leave_out_shared)
        self.register_load_state_dict_pre_hook(keep_shared)
        self._prepare(None)
        if model is not None:
            self.attach(model)

    @property
    def terms(self) -> Terms:
        """The terms by name, the main one among them, in the order in which they are added."""
        return self._terms

    @terms.setter
    def terms(self, terms: Any) -> None:
        raise AuxiliaryError("the terms of an objective cannot be replaced; make a new Objective")

    def weights(self, progress: float | None = None, step: int | None = None) -> dict[str, float]:
        """The weight of every term at this progress, 0 for inactive ones.

        Raises AuxiliaryError for a progress outside [0, 1], and if taps are patterns and no model is attached.
        """
        return self._chosen_weights(self._weight_functions, progress, step)

    def _chosen_weights(self, chosen: Collection[str], progress: float | None, step: int | None) -> dict[str, float]:
        """The weights of a call; 0 for terms that are not chosen, whose functions may need a progress or a step."""
        check_progress(progress)
        if not self._weight_functions:
            raise AuxiliaryError("some taps are patterns; attach(model) says which terms there are")
        functions = self._weight_functions.items()
        return {name: weight(progress, step) if name in chosen else 0.0 for name, weight in functions}

    def attach(self, model: nn.Module) -> Self:
        """Finds the taps in a model and registers hooks there; the first call does so by itself.

        Raises AuxiliaryError if a tap or a head is not found, and if this is attached to another model.
        """
        base = self._unwrap(model)
        if not isinstance(base, nn.Module):
            raise AuxiliaryError("some terms have taps or heads, and the model is a plain function; give the nn.Module")
        if self.taps.model is base:
            return self
        with _ATTACH_LOCK:
            if self.taps.model is not base:  # another thread may have attached it
                self._attach(base)
        return self

    def build(self, model: nn.Module, inputs: Any) -> Self:
        """Makes the heads that are given as functions of a shape, from one forward pass; before the optimizer is made.

        The pass runs without gradients, in evaluation mode, and does not change the model or the random state.
        A head has the device and the dtype of its input; under autocast and mixed precision, the dtype of the model's
        parameters.
        """
        self.attach(model)
        base = self._unwrap(model)
        factories = {n: t for n, t in self.terms.items() if callable(t.head) and not isinstance(t.head, nn.Module)}
        dtypes = trainable_dtypes(base)
        with probing(base):
            output, tap_outputs = self._run(model, inputs, list(factories))
            states = {name: head_input(name, self.terms, output, tap_outputs, model) for name in factories}
        built: dict[str, Term] = {}
        for name, term in factories.items():
            state = states[name][0] if isinstance(states[name], list) else states[name]
            built[name] = dataclasses.replace(term, head=make_head(name, term.head, state, dtypes))
        self._terms = Terms({**self.terms, **built})
        self._prepare(base)
        return self

    def remove(self) -> None:
        """Takes the hooks off the model. `attach` registers them again."""
        self.taps.remove()

    def forward(
        self,
        model: Callable[..., Any],
        inputs: Any,
        targets: Any = None,
        *,
        progress: float | None = None,
        step: int | None = None,
        counts: Mapping[str, PartCounts] | None = None,
        only: Iterable[str] | None = None,
    ) -> Report:
        """Runs the model and measures every active term.

        inputs: of the model; a tuple is spread over its arguments, a mapping over its keyword arguments.
        targets: see Term. progress: in [0, 1]. step: for weights that change every step.
        counts: under gradient accumulation, how many predictions each term has in the whole batch of this process
        (`objective.counts`); those of this call when None. They are added over ranks here.
        only: the names of the terms to measure; the others are inactive in this call.
        Raises AuxiliaryError that names the term; NotFiniteError for a loss that is NaN or infinite.
        """
        self._check_attached()
        base = self._unwrap(model)
        has_modules = len(self.heads) > 0 or len(self.losses) > 0
        should_attach = has_modules and isinstance(base, nn.Module) and self.taps.model is None
        if self._needs_model() or should_attach:
            self.attach(base)
        elif self.taps.model is None and isinstance(base, nn.Module):
            check_frozen(base, self.terms)
        chosen = chosen_terms(self._terms, only)
        weights, wrappers = (
            self._chosen_weights(chosen, progress, step),
            ParallelWrappers(model),
        )  # before the model runs
        measured = measured_terms(self._terms, weights, chosen)
        output, tap_outputs = self._run(model, inputs, measured)
        forward = ForwardPass(output, targets, tap_outputs, model, inputs)
        report = self._measure(forward, weights, measured, counts, wrappers)
        report.output = output
        return report

    def finish_checks(self) -> None:
        """Waits for the deferred checks of all calls. Raises NotFiniteError for a loss that is NaN or infinite."""
        self._finite_check.finish()

    @contextmanager
    def capture(self, model: nn.Module | None = None) -> Generator[None]:
        """Records what the tapped modules return in the forward pass run inside the `with` block. For existing loops:

            with objective.capture():
                output = model(**batch)
            report = objective.from_output(output, targets, progress=step / steps)

        `from_output` reads the taps of the last pass that this thread captured. model: the model as the loop calls it;
        needed if the objective is not attached yet, and if DDP wraps the model.
        Raises AuxiliaryError for terms with taps without a model.
        """
        self._check_attached()
        needs_model = self._needs_model()
        if model is not None and needs_model:
            self.attach(model)
        elif needs_model and self.taps.model is None:
            raise AuxiliaryError("this objective is attached to no model; call attach(model) first, or capture(model)")
        self._check_current(self.terms)
        wrappers, recorder = ParallelWrappers(model), self.taps.recorder  # before the model runs
        recorder.captured = None  # releases the tensors of the previous pass
        with self.taps.recording(name for term in self.terms.values() for name in term.tapped_names) as outputs:
            yield
        recorder.captured = CapturedPass(outputs, self.taps.model if model is None else model, wrappers)

    def from_output(
        self,
        output: Any,
        targets: Any = None,
        *,
        progress: float | None = None,
        step: int | None = None,
        counts: Mapping[str, PartCounts] | None = None,
        weights: Mapping[str, float] | None = None,
        only: Iterable[str] | None = None,
    ) -> Report:
        """The report of a forward pass that has already run. Terms with taps need a pass inside `capture`.

        weights: those of the active terms, instead of their weight functions. only: as in a call.
        """
        self._check_attached()
        chosen = chosen_terms(self._terms, only)
        if weights is None:
            weights = self._chosen_weights(chosen, progress, step)
        else:
            weights = given_weights(self._terms, weights, chosen)
        measured = measured_terms(self._terms, weights, chosen)
        self._check_current(measured)
        captured = self.taps.recorder.captured
        if captured is None:
            check_without_taps(self._terms, measured)
            captured = CapturedPass({}, None, ParallelWrappers(None))
        elif not captured.was_read:
            captured.was_read, captured.is_outdated = True, False
        elif captured.is_outdated:
            check_without_taps(self._terms, measured)
        forward = ForwardPass(output, targets, captured.outputs, captured.model)
        return self._measure(forward, weights, measured, counts, captured.wrappers)

    def counts(self, batches: Iterable[Any]) -> dict[str, PartCounts]:
        """The number of predictions of each term in the targets of several micro-batches together.

        Raises AuxiliaryError for a term without `count` whose target does not determine it. A call raises it for a
        loss that counts differently.
        """
        return count_batches(self.terms, batches)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """As nn.Module's, without the parameters that the model owns."""
        of_model = model_parameter_ids(self.taps.model)
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            if id(parameter) not in of_model:
                yield name, parameter

    def train(self, mode: bool = True) -> Self:
        """As nn.Module's, without the parts of the model that heads have. The model has a mode of its own."""
        model = self.taps.model
        modes = {} if model is None else {module: module.training for module in model_modules(model)}
        super().train(mode)
        for module, training in modes.items():
            module.training = training
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __getstate__(self) -> dict[str, Any]:
        """A copy is attached to no model, and has no hooks on any."""
        state = dict(self.__dict__)
        del state["_weight_functions"], state["taps"], state["_head_gradients"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._head_gradients = HeadGradients()
        if "taps" not in state:
            self.taps = Taps()
            register_modules(self.terms, self.heads, self.losses, None)
        self._make_weight_functions()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """As __getstate__. But when the model is copied too, for example because it holds this objective, the copy is
        attached to the copied model, whose hooks are copies as well."""
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        state = self.__getstate__()
        if self.taps.model is not None and id(self.taps.model) in memo:
            state["taps"] = self.taps
        new.__setstate__(copy.deepcopy(state, memo))
        return new

    def _prepare(self, model: nn.Module | None) -> None:
        register_modules(self.terms, self.heads, self.losses, model)
        self._make_weight_functions()

    def _make_weight_functions(self) -> None:
        """Makes a function of every weight, and puts the terms into their order."""
        if has_patterns(self.terms):  # the terms are not known before a model is attached
            self._weight_functions = {}
            return
        self._weight_functions = self.terms.weight_functions()
        if self.order is not None:
            self._terms = self.terms.in_order(self.order)

    def _unwrap(self, model: Any) -> Any:
        """The model inside its wrappers: the attached one, or the innermost that has all taps."""
        attached = self.taps.model
        if attached is not None and any(level is attached for level in unwrapping_levels(model)):
            return attached
        names = [name for term in self.terms.values() for name in (*term.tapped_names, term.head)]
        return unwrap(model, [name for name in names if isinstance(name, str)])

    def _attach(self, base: nn.Module) -> None:
        if self.taps.model is not None:
            raise AuxiliaryError("this objective is attached to another model; make one for each, or remove() it first")
        before = self.terms
        self._terms = Terms(expand(base, before))
        try:
            check_frozen(base, self.terms)
            self._prepare(base)
        except AuxiliaryError:
            self._terms = before
            raise
        taps = dict.fromkeys(name for term in self.terms.values() for name in term.tapped_names)
        head_names = {term.head for term in self.terms.values() if isinstance(term.head, str)}
        head_modules = {name: term.head for name, term in self.terms.items() if isinstance(term.head, nn.Module)}
        self.taps.attach(base, taps, head_names, head_modules)

    def _needs_model(self) -> bool:
        """Whether a term has a tap or a head of the model. Otherwise the model may be any function."""
        return any(term.tapped_names or isinstance(term.head, str) for term in self._terms.by_name.values())

    def _check_attached(self) -> None:
        if self.taps.is_removed:
            raise AuxiliaryError("this objective was removed from its model; attach(model) it again, or make a new one")

    def _check_current(self, active: Iterable[str]) -> None:
        """Raises AuxiliaryError if a module that an active term reads or calls was replaced after `attach`."""
        if self.taps.model is None or self.taps.is_current():
            return
        for name in active:
            self.taps.check_current(name, self.terms[name].tapped_names, self.terms[name].head)

    def _run(self, model: Callable[..., Any], inputs: Any, active: list[str]) -> tuple[Any, TapOutputs]:
        """One forward pass: the model's output, and the outputs of the taps of active terms."""
        self._check_current(active)
        terms = self._terms.by_name
        with self.taps.recording(tap for name in active for tap in terms[name].tapped_names) as tap_outputs:
            output = call_model(model, inputs)
        return output, tap_outputs

    def _measure(
        self,
        forward: ForwardPass,
        weights: Mapping[str, float],
        names: list[str],
        counts: Mapping[str, PartCounts] | None,
        wrappers: ParallelWrappers,
    ) -> Report:
        """Measures the terms `names`, adds up those with a weight, and prepares the backward pass of several ranks."""
        if counts is not None:
            check_counts(self.terms, counts)
        world_size, with_gradients = distributed.world_size(), torch.is_grad_enabled()
        if with_gradients:  # before a head is called
            self._head_gradients.prepare(self, [name for name in names if weights[name] != 0], wrappers, world_size)
        trained = {name: weights[name] != 0 for name in names}
        terms = self._terms.by_name
        measured = measure_all(terms, trained, self.taps.heads, forward)
        report = aggregate(measured, terms, weights, self.rule, counts, forward.targets, world_size)
        self._finite_check(report, world_size)
        if with_gradients and wrappers.strict:
            report.total = report.total + zero_loss_of_unused(self, weights, forward.output, wrappers).to(report.total)
        return report
