"""Drafters by name, from what a run has."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

from charladder.errors import UserError
from charladder.generation.distribution import SamplingParams
from charladder.generation.speculative import (
    AutoDrafter,
    ChainedHeadDrafter,
    Drafter,
    EarlyExitDrafter,
    IndependentHeadsDrafter,
    NgramDrafter,
    NoDrafter,
)  # fmt: skip
from charladder.generation.speculative.heads_file import load_heads
from charladder.inference.runner import ModelRunner
from charladder.run import Run

DrafterName = Literal["auto", "none", "targets", "early-exit", "ngram"]
LENGTHS_TO_TRY = {"targets": (2, 4, 7), "early-exit": (2, 4), "ngram": (2, 4, 8)}  # that auto tries


def make_drafter(
    name: DrafterName,
    run: Run,
    runner: ModelRunner,
    sampling: SamplingParams,
    length: int | None = None,
    training_text: Callable[[], np.ndarray | None] = lambda: None,
    dtype: torch.dtype = torch.float32,
    report: Callable[[str], None] = lambda sentence: None,
) -> Drafter:
    """The drafter called `name`, which proposes `length` characters (its own choice unless given).

    training: fetches the text that the run was trained on, for `ngram`. Raises UserError where the run has no heads for
    a drafter that is asked for, or unusable ones; `auto` does without, and reports why.
    """
    if length is not None and not 1 <= length <= 64:
        raise UserError(field="draft_length", value=length, rule="it must be between 1 and 64 characters")
    if name == "none":
        return NoDrafter()
    if name == "ngram":
        return NgramDrafter(training_text(), length or 4)
    if name == "auto":
        found: list[Drafter] = []
        said = set()
        for make in (_make_target_heads, _make_early_exit):
            try:
                drafter = make(run, runner, sampling, length or 8, dtype)
            except UserError as error:
                if str(error) not in said:
                    report(f"{error}; writing goes on without them")
                said.add(str(error))
                continue
            if drafter is not None:
                found.append(drafter)
        found.append(NgramDrafter(None, length or 8))
        return AutoDrafter([(d, _lengths_to_try(d, length)) for d in found])
    if name == "early-exit" and run.recipe.model.layers < 2:
        raise UserError(
            f"{run.path} has no layer below the last to draft from", field="draft", rule="use another drafter"
        )
    drafter = (_make_target_heads if name == "targets" else _make_early_exit)(run, runner, sampling, length, dtype)
    if drafter is None:
        what = "targets ahead" if name == "targets" else "intermediate layers"
        command = f"charladder refit {run.words}"
        raise UserError(f"{run.path} has no heads of {what} to draft with; `{command}` fits them")
    return drafter


def _lengths_to_try(drafter: Any, length: int | None) -> tuple[int, ...]:
    """How many characters of a drafter are worth a trial."""
    wanted = (length,) if length else LENGTHS_TO_TRY[drafter.name]
    return tuple(sorted({min(n, drafter.max_length) for n in wanted}))


def _make_target_heads(
    run: Run, runner: ModelRunner, sampling: SamplingParams, length: int | None, weights: torch.dtype
) -> Drafter | None:
    """The chain of refitted heads, or else the target heads that were trained with the network."""
    kept = load_heads(run)
    if kept is not None:
        return ChainedHeadDrafter(kept[0].chain, sampling, length or 4, weights)
    last, heads = run.recipe.model.layers, {}
    if run.recipe.objective.targets > 1 and run.heads_path.is_file():
        modules = run.objective().heads
        for k in range(2, run.recipe.objective.targets + 1):
            if f"layer{last}_target{k}" in modules:
                head = modules.get_submodule(f"layer{last}_target{k}")
                heads[k] = head.get_parameter("weight"), getattr(head, "bias", None)
    return IndependentHeadsDrafter(heads, sampling, length or 8) if 2 in heads else None


def _make_early_exit(
    run: Run, runner: ModelRunner, sampling: SamplingParams, length: int | None, weights: torch.dtype
) -> Drafter | None:
    """The lowest refitted layer, or else one trained with the network that learned to its end."""
    kept = load_heads(run)
    if kept is not None and kept[0].early_exit:
        layer = min(map(int, kept[0].early_exit))
        weight = kept[0].early_exit.get_submodule(str(layer)).get_parameter("weight")
        return EarlyExitDrafter(runner, layer, weight, None, sampling, length or 3)
    objective, layers = run.recipe.objective, run.recipe.model.layers
    lasting = (
        objective.intermediate_schedule in ("never", "constant")
        and objective.intermediate_heads == "own"
        and objective.intermediate
    )
    if not lasting or layers < 2 or not run.heads_path.is_file():
        return None
    layer = max(1, layers // 4)
    modules = run.objective().heads
    if f"layer{layer}_target1" not in modules:
        return None
    head = modules.get_submodule(f"layer{layer}_target1")
    normed = objective.intermediate_input == "normed"
    return EarlyExitDrafter(
        runner, layer, head.get_parameter("weight"), getattr(head, "bias", None), sampling, length or 3, normed
    )
