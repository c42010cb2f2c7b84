"""The three losses of Al-Rfou et al. 2018: at every position, from every layer, of several characters ahead.

Layer l of n predicts the character k ahead through a classifier of its own; the term is called `layer{l}.target{k}`,
and the last layer's next character, through the network's own output layer, is `main`. All other classifiers are
heads: they are modules of the objective, are trained with the network, and are not deployed with it.

Shapes: B windows, T inputs, K targets ahead, D width, V symbols of the alphabet.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charladder.auxiliary import Objective, Report, Term, TermReport, presets, schedules, term_name
from charladder.auxiliary.cross_entropy import CrossEntropyOperations, linear_cross_entropy
from charladder.auxiliary.distributed import reduce_over_ranks
from charladder.auxiliary.weights import TermPlace, WeightFunction, make_weight_function
from charladder.errors import UserError
from charladder.model import Dropout, ModelConfig, ModelOutput, Transformer
from charladder.objective.cross_entropy_kernels import choose_operations

# Schedules that only the language model has, and every preset of the library.
INTERMEDIATE_SCHEDULES: dict[str, Callable[..., float]] = {
    "half": presets.al_rfou,
    "whole": lambda layer, layers, progress: presets.al_rfou(layer, layers, progress, span=1.0),
    "fade": lambda layer, layers, progress: (
        1.0 if layer == layers else schedules.linear(1.0, 0.0, until=0.5 * layer / layers)(progress)
    ),
    "never": presets.detr,
    "constant": presets.detr,
    **presets.INTERMEDIATE,
}
if TYPE_CHECKING:
    IntermediateSchedule = TargetSchedule = str
else:  # the choices of these fields, for recipes and the command line
    IntermediateSchedule, TargetSchedule = Literal[*INTERMEDIATE_SCHEDULES], Literal["plain", *presets.TARGETS]


MAX_TARGETS = 256
MAX_LOGIT_BYTES = 64 << 20  # bytes of logits beyond which the losses of a layer are computed a few rows at a time


@dataclass(frozen=True)
class ObjectiveConfig:
    """Which losses contribute, and how much. The defaults are the paper's where it says.

    positions: Positions that are predicted: `all`, or only the `last` one of a window (the paper's ablation).
    intermediate: Whether intermediate layers have losses.
    intermediate_schedule: When intermediate layer l of n stops: `half` at l/(2n) of training, or another rule. `whole`:
    at l/n (the paper's other figure). `fade`: a weight that falls linearly to 0 at l/(2n). `never`, also called
    `constant`. The others are presets of `charladder.auxiliary.presets`. The paper's rule is `half`.
    intermediate_weight: Factor of the weight of every intermediate layer.
    intermediate_reduction: `sum` of the intermediate layers, or their `mean` over the active ones. The paper does not
    say; the recipes t12 and t64 take the mean, by the trials in docs/decisions/0012.
    intermediate_input: What intermediate classifiers read: the `normed` (no parameters) or `plain` hidden state.
    intermediate_heads: `own` classifiers for each layer (the paper), or final norm and classifiers `shared` by all.
    targets: Number of future characters predicted by each layer, each with its own classifier.
    target_schedule: Weights of the targets: `plain`, or a preset of other papers.
    target_weight: Weight of every target after the first, with the `plain` schedule.
    target_end: Progress in [0, 1] at which the targets after the first stop, with the `plain` schedule.
    """

    positions: Literal["all", "last"] = "all"
    intermediate: bool = True
    intermediate_schedule: IntermediateSchedule = "half"
    intermediate_weight: float = 1.0
    intermediate_reduction: Literal["sum", "mean"] = "sum"
    intermediate_input: Literal["normed", "plain"] = "normed"
    intermediate_heads: Literal["own", "shared"] = "own"
    targets: int = 2
    target_schedule: TargetSchedule = "plain"
    target_weight: float = 0.5
    target_end: float = 1.0

    def __post_init__(self) -> None:
        if self.targets < 1:
            raise UserError(f"objective.targets is {self.targets}; it must be at least 1, the next character")
        if self.targets > MAX_TARGETS:
            raise UserError(f"objective.targets is {self.targets}; it must be at most {MAX_TARGETS}")
        for name in ("intermediate_weight", "target_weight", "target_end"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"objective.{name} is {value}; it must be a number of at least 0")


@lru_cache(maxsize=16)
def _weight_functions(
    settings: ObjectiveConfig, layers: int
) -> dict[tuple[int, int], tuple[WeightFunction, WeightFunction]]:
    """The two weights of every term, of its layer and of its target, as functions of (progress, step)."""
    plain = {1: 1.0} | dict.fromkeys(range(2, settings.targets + 1), settings.target_weight)
    if settings.target_end < 1:
        ends = {
            k: schedules.until(settings.target_end, w) if settings.target_end > 0 else 0.0 for k, w in plain.items()
        }
        plain = ends | {1: 1.0}
    found = {}
    for layer in range(1, layers + 1):
        for k in range(1, settings.targets + 1):
            name, main = term_name(layer, k, layers), (layer, k) == (layers, 1)
            of_layer = (
                INTERMEDIATE_SCHEDULES[settings.intermediate_schedule]
                if settings.intermediate
                else float(layer == layers)
            )
            of_target = plain[k] if settings.target_schedule == "plain" else presets.TARGETS[settings.target_schedule]
            found[layer, k] = (
                make_weight_function(name, of_layer, TermPlace(layer, layers, main=layer == layers)),
                make_weight_function(name, of_target, TermPlace(layer, layers, k, settings.targets, main)),
            )
    return found


def term_weights(
    settings: ObjectiveConfig, layers: int, progress: float, step: int = 0
) -> dict[tuple[int, int], float]:
    """The weight of every term at `progress` (some presets use `step`), by (layer, target); 0 for inactive terms.

    The main term, (layers, 1), has weight 1 unless a preset says otherwise. The weight of a layer applies to all its
    targets.
    """
    weights = {}
    for (layer, k), (of_layer, of_target) in _weight_functions(settings, layers).items():
        base = of_layer(progress, step) * (settings.intermediate_weight if layer < layers else 1.0)
        weights[layer, k] = base * of_target(progress, step)
    if settings.intermediate_reduction == "mean":
        predicting = {layer for (layer, _), weight in weights.items() if weight > 0 and layer < layers}
        active = max(1, len(predicting))
        weights = {(layer, k): w / active if layer < layers else w for (layer, k), w in weights.items()}
    return weights


def depends_on_step(settings: ObjectiveConfig) -> bool:
    """Whether weights depend on the training step, not only on the progress."""
    by_step = "layerskip", "layerskip_from_zero"
    return settings.intermediate_schedule in by_step or settings.target_schedule == "blockwise"


class LanguageModelObjective(nn.Module):
    """The training loss of a Transformer, and its heads: an auxiliary.Objective with a term for each layer and target.

    Calling it with a model, windows (B, T + K) and the progress returns a Report: the total in nats, divided once by
    the number of predictions, and the sum and count of every active term. A term of weight 0 is not computed.
    """

    def __init__(self, settings: ObjectiveConfig, model: ModelConfig, alphabet: int, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.layers = settings, model.layers
        self._choose_operations: Callable[[Tensor], CrossEntropyOperations] = choose_operations
        self.heads = nn.ModuleDict(
            {
                head_key(layer, k): nn.Linear(model.width, alphabet, bias=model.block == "paper")
                for layer in range(1, model.layers + 1)
                for k in range(1, settings.targets + 1)
                if has_head(settings, model.layers, layer, k)
            }
        )
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for head in self.heads.values():
                for parameter in head.parameters():
                    parameter.zero_()
                weight = head.get_parameter("weight")
                if not weight.is_meta:  # as in model/transformer.py
                    weight.normal_(0, 0.1 / math.sqrt(model.width), generator=generator)
        # In tuples, so that the heads are registered once, under the names that checkpoints have.
        self._objective, self._measured_objective = (self._build_objective(),), (self._build_objective(measured=True),)

    @staticmethod
    def count_heads(settings: ObjectiveConfig, layers: int) -> int:
        """The number of heads, without creating them."""
        return sum(
            has_head(settings, layers, layer, k)
            for layer in range(1, layers + 1)
            for k in range(1, settings.targets + 1)
        )

    def _build_objective(self, measured: bool = False) -> Objective:
        """An objective with one term for each layer and target, summed from the lowest layer to the last.

        measured: the terms read losses that `_compute_layer_losses` has computed, not hidden states.
        """
        terms = {}
        for layer in range(1, self.layers + 1):
            for k in range(1, self.settings.targets + 1):
                source = self.layers if self.settings.intermediate_heads == "shared" else layer
                # The logits of the network's own output layer are already computed.
                done = (source, k) == (self.layers, 1)
                head = self.heads[head_key(source, k)] if not done and head_key(source, k) in self.heads else None
                name = term_name(layer, k, self.layers)
                # Weights are given at each call: the mean over layers depends on which of them are active.
                if measured and (layer, k) != (self.layers, 1):
                    terms[name] = Term(lambda loss: loss, select=(layer, k), target=None)
                else:
                    terms[name] = Term(
                        _cross_entropy, select=(layer, "logits") if done else (layer, "hidden"), head=head, target=(k,)
                    )
        order = list(terms)
        return Objective(terms.pop("main"), terms, order=order, check=False, wrapped=True)

    def use_operations(self, operations: CrossEntropyOperations) -> None:
        """Uses these operations for the cross-entropies, instead of choosing them for each input."""
        self._choose_operations = lambda hidden: operations

    def forward(
        self,
        model: Transformer,
        windows_BTK: Tensor,
        progress: float,
        examples: int | None = None,
        dropout: Dropout | None = None,
        step: int = 0,
        separate_gradients: bool = False,
    ) -> Report:
        """examples: the number of windows of the batch in this process, over all micro-batches; None: those given here.

        separate_gradients: the caller needs the gradients of single terms, not only that of the total.
        """
        K = self.settings.targets
        B, T = windows_BTK.shape[0], windows_BTK.shape[1] - K
        keep = T if self.settings.positions == "all" else 1
        weights = term_weights(self.settings, self.layers, progress, step)
        active = {place: weight for place, weight in weights.items() if weight > 0}
        targets = {k: windows_BTK[:, T + k - keep : T + k] for k in range(1, K + 1)}
        at_once = len(active) * B * keep * _logit_bytes_per_position(model) > MAX_LOGIT_BYTES
        found: dict[int, Any] = {}

        def measure(layer: int, hidden_BTD: Tensor) -> None:
            # Called as soon as the layer has its state, so that its backward pass follows that of its block.
            found[layer] = self._compute_layer_losses(model, layer, hidden_BTD, targets, active, separate_gradients)

        layers = {layer for layer, _ in active}
        watch = measure if at_once else None
        output = model(windows_BTK[:, :T], output_hidden=layers, logits_to_keep=keep, dropout=dropout, on_hidden=watch)
        if self.layers in found:
            found[self.layers]["logits"] = output.logits_BTV
        read = found if at_once else self._read_outputs(model, output, active)
        names = {term_name(layer, k, self.layers): weight for (layer, k), weight in active.items()}
        report = (self._measured_objective if at_once else self._objective)[0].from_output(
            read, targets, weights=names, counts=dict.fromkeys(names, (examples or B) * keep)
        )
        if "main" not in report.terms:  # with a preset that skips the main term, its loss is reported anyway
            loss, count = _cross_entropy(output.logits_BTV.detach(), windows_BTK[:, T + 1 - keep : T + 1])
            report.terms["main"] = reduce_over_ranks(TermReport(loss, count, 0.0))
        return report

    def _read_outputs(
        self, model: Transformer, output: ModelOutput, active: dict[tuple[int, int], float]
    ) -> dict[int, Any]:
        """The inputs of the terms of each layer: its hidden state, and its logits if the network computes them."""
        read = {layer: {"hidden": self.head_input(model, layer, hidden)} for layer, hidden in output.hidden.items()}
        for layer, parts in read.items():
            if layer == self.layers:
                parts["logits"] = output.logits_BTV
            elif self.settings.intermediate_heads == "shared" and (layer, 1) in active:
                parts["logits"] = model.output(parts["hidden"])
        return read

    def _compute_layer_losses(
        self,
        model: Transformer,
        layer: int,
        hidden_BTD: Tensor,
        targets: dict[int, Tensor],
        active: dict[tuple[int, int], float],
        separate_gradients: bool,
    ) -> dict[Any, Any]:
        """The losses of a layer by target, (sum, count) each, without the main one. Called layer by layer, so that the
        inputs of the heads and the logits of all layers are never in memory at the same time."""
        source = self.layers if self.settings.intermediate_heads == "shared" else layer
        ks = [k for k in targets if (layer, k) in active and (layer, k) != (self.layers, 1)]
        normed = self.normalizes_input(layer)
        found: dict[Any, Any] = {}
        for group in [[k] for k in ks] if separate_gradients else [ks] if ks else []:
            losses = linear_cross_entropy(
                hidden_BTD if normed else self.head_input(model, layer, hidden_BTD),
                [self.classifier(model, source, k) for k in group],
                [targets[k] for k in group],
                [active[layer, k] for k in group],
                normed,
                self._choose_operations(hidden_BTD),
            )
            found |= {k: (loss, targets[k].numel()) for k, loss in zip(group, losses, strict=True)}
        return found

    def classifier(self, model: Transformer, layer: int, target: int) -> nn.Linear:
        return (
            model.output
            if (layer, target) == (self.layers, 1)
            else cast(nn.Linear, self.heads[head_key(layer, target)])
        )

    def head_input(self, model: Transformer, layer: int, hidden_BTD: Tensor) -> Tensor:
        """The input of the heads of a layer. The network itself normalizes the state of the last layer."""
        if layer < self.layers and self.settings.intermediate_heads == "shared":
            return model.norm(hidden_BTD)
        return F.layer_norm(hidden_BTD, hidden_BTD.shape[-1:]) if self.normalizes_input(layer) else hidden_BTD

    def normalizes_input(self, layer: int) -> bool:
        """Whether the heads of a layer read its state normalized without parameters."""
        own = self.settings.intermediate_heads == "own" and self.settings.intermediate_input == "normed"
        return layer < self.layers and own


def has_head(settings: ObjectiveConfig, layers: int, layer: int, target: int) -> bool:
    """Whether a term has its own head. The main term uses the output layer; shared heads are the last layer's."""
    own = settings.intermediate and settings.intermediate_weight > 0 and settings.intermediate_heads == "own"
    wanted = target == 1 or settings.target_weight > 0 or settings.target_schedule != "plain"
    return (layer == layers or own) and (layer, target) != (layers, 1) and wanted


def _cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> tuple[Tensor, int]:
    """The sum in nats, in at least float32, and the number of predictions."""
    exact = logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))
    return F.cross_entropy(exact.flatten(0, 1), targets_BT.flatten(), reduction="sum"), targets_BT.numel()


def _logit_bytes_per_position(model: Transformer) -> int:
    """The bytes of the logits of one position, in at least float32."""
    weight = model.output.weight
    return len(weight) * torch.promote_types(weight.dtype, torch.float32).itemsize


def head_key(layer: int, target: int) -> str:
    """The name of a head in a ModuleDict, where a dot is not allowed."""
    return f"layer{layer}_target{target}"
