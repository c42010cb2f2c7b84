"""Which losses of the language model contribute, and how much: settings, and the weight of every term.

A term is a layer l and a target k, the character k ahead.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from charladder.auxiliary import presets, schedules, term_name
from charladder.auxiliary.weights import TermPlace, WeightFunction, make_weight_function
from charladder.errors import UserError

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
    target_heads: `independent` classifiers for further targets, or `chained` modules of the last layer. A chained
    module is a layer that also reads the characters between (DeepSeek-V3 2024, section 2.2); intermediate layers then
    predict the next character only.
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
    target_heads: Literal["independent", "chained"] = "independent"
    target_schedule: TargetSchedule = "plain"
    target_weight: float = 0.5
    target_end: float = 1.0

    def __post_init__(self) -> None:
        if self.targets < 1:
            raise UserError(f"objective.targets is {self.targets}; it must be at least 1, the next character")
        if self.targets > MAX_TARGETS:
            raise UserError(f"objective.targets is {self.targets}; it must be at most {MAX_TARGETS}")
        if self.target_heads == "chained" and self.targets == 1:
            raise UserError(
                "objective.target_heads is chained, and objective.targets is 1, so there is no chained module; set "
                "targets to at least 2, or target_heads to independent"
            )
        if self.target_heads == "chained" and self.positions == "last":
            raise UserError(
                "objective.target_heads is chained, whose modules read the states of all positions, and "
                "objective.positions is last; set positions to all, or target_heads to independent"
            )
        for name in ("intermediate_weight", "target_weight", "target_end"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"objective.{name} is {value}; it must be a number of at least 0")


def has_term(settings: ObjectiveConfig, layers: int, layer: int, target: int) -> bool:
    """Whether a layer predicts a target. Chained targets are predicted by the last layer alone."""
    return settings.target_heads == "independent" or layer == layers or target == 1


def is_chained(settings: ObjectiveConfig, layers: int, layer: int, target: int) -> bool:
    """Whether a chained module predicts this target."""
    return settings.target_heads == "chained" and layer == layers and target > 1


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
    """The weight of every layer and target at `progress` (some presets use `step`); 0 if it has no active term.

    The main term, (layers, 1), has weight 1 unless a preset says otherwise. The weight of a layer applies to all its
    targets.
    """
    weights = {}
    for (layer, k), (of_layer, of_target) in _weight_functions(settings, layers).items():
        base = of_layer(progress, step) * (settings.intermediate_weight if layer < layers else 1.0)
        weights[layer, k] = base * of_target(progress, step) if has_term(settings, layers, layer, k) else 0.0
    if settings.intermediate_reduction == "mean":
        predicting = {layer for (layer, _), weight in weights.items() if weight > 0 and layer < layers}
        active = max(1, len(predicting))
        weights = {(layer, k): w / active if layer < layers else w for (layer, k), w in weights.items()}
    return weights


def depends_on_step(settings: ObjectiveConfig) -> bool:
    """Whether weights depend on the training step, not only on the progress."""
    by_step = "layerskip", "layerskip_from_zero"
    return settings.intermediate_schedule in by_step or settings.target_schedule == "blockwise"


def has_head(settings: ObjectiveConfig, layers: int, layer: int, target: int) -> bool:
    """Whether a term has its own head: a classifier or a chained module. The main term uses the output layer; shared
    heads are the last layer's."""
    own = settings.intermediate and settings.intermediate_weight > 0 and settings.intermediate_heads == "own"
    wanted = target == 1 or settings.target_weight > 0 or settings.target_schedule != "plain"
    wanted = wanted and has_term(settings, layers, layer, target)
    return (layer == layers or own) and (layer, target) != (layers, 1) and wanted
