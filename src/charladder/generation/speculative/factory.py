"""The construction of a drafter by name from a run."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast

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
    TrainedChainDrafter,
)  # fmt: skip
from charladder.generation.speculative.heads_file import load_heads
from charladder.generation.speculative.ngram import MAX_INDEXED_CHARACTERS
from charladder.generation.speculative.trained_chain import TrainedChain
from charladder.inference.runner import ModelRunner
from charladder.model import Transformer
from charladder.objective import ChainedModule, head_key
from charladder.run import Run

DrafterName = Literal["auto", "none", "targets", "early-exit", "ngram"]
LENGTHS_TO_TRY = {
    "targets": (2, 4, 7),
    "early-exit": (2, 4),
    "ngram": (2, 4, 8),
}  # draft lengths that AutoDrafter tries


def make_drafter(
    name: DrafterName,
    run: Run,
    runner: ModelRunner,
    sampling: SamplingParams,
    length: int | None = None,
    training_text: Callable[[], np.ndarray | None] = lambda: None,
    dtype: torch.dtype = torch.float32,
    report: Callable[[str], None] = lambda sentence: None,
    max_ngram_characters: int = MAX_INDEXED_CHARACTERS,
    open_chain: Callable[[], TrainedChain | None] | None = None,
) -> Drafter:
    """Makes the drafter `name`, which proposes up to `length` characters (default: depends on the drafter).

    training_text: returns the ids of the training text, for `ngram`. dtype: of packed heads.
    max_ngram_characters: how much of the text so far an n-gram drafter indexes. open_chain: returns the chained modules
    of the run, which drafters of the same runner can share; by default the run is read again. Raises UserError if the
    run has no usable heads for the drafter; `auto` calls `report` instead and does not use it.
    """
    if length is not None and not 1 <= length <= 64:
        raise UserError(field="draft_length", value=length, rule="it must be between 1 and 64 characters")
    make_target_heads = partial(
        _make_target_heads, open_chain=open_chain or partial(open_trained_chain, run, runner, dtype)
    )
    if name == "none":
        return NoDrafter()
    if name == "ngram":
        return NgramDrafter(training_text(), length or 4, max_ngram_characters)
    if name == "auto":
        drafters: list[Drafter] = []
        reported = set()
        for make in (make_target_heads, _make_early_exit):
            try:
                drafter = make(run, runner, sampling, length or 8, dtype)
            except UserError as error:
                if str(error) not in reported:
                    report(f"{error}; generation continues without them")
                reported.add(str(error))
                continue
            if drafter is not None:
                drafters.append(drafter)
        drafters.append(NgramDrafter(None, length or 8, max_ngram_characters))
        return AutoDrafter([(d, _lengths_to_try(d, length)) for d in drafters])
    if name == "early-exit" and run.recipe.model.layers < 2:
        raise UserError(
            f"{run.path} has no layer below the last to draft from", field="draft", rule="use another drafter"
        )
    drafter = (make_target_heads if name == "targets" else _make_early_exit)(run, runner, sampling, length, dtype)
    if drafter is None:
        heads = "further targets" if name == "targets" else "intermediate layers"
        command = f"charladder refit {run.command_arguments}"
        raise UserError(f"{run.path} has no heads of {heads} to draft with; `{command}` fits them")
    return drafter


def _lengths_to_try(drafter: Any, length: int | None) -> tuple[int, ...]:
    """The draft lengths that AutoDrafter tries."""
    lengths = (length,) if length else LENGTHS_TO_TRY[drafter.name]
    return tuple(sorted({min(n, drafter.max_length) for n in lengths}))


def open_trained_chain(
    run: Run, runner: ModelRunner, dtype: torch.dtype, network: Transformer | None = None
) -> TrainedChain | None:
    """The chained modules that the run was trained with (objective.target_heads), for the sequences of `runner`; None
    if it has none. dtype: of their layers. network: that of the run, if it is loaded already."""
    if run.recipe.objective.target_heads != "chained" or not run.heads_path.is_file():
        return None
    objective, last = run.load_objective(), run.recipe.model.layers
    modules = [cast(ChainedModule, objective.heads[head_key(last, k)]) for k in objective.chained_targets]
    return TrainedChain(network or run.load_network(), modules, runner, dtype) if modules else None


def _make_target_heads(
    run: Run,
    runner: ModelRunner,
    sampling: SamplingParams,
    length: int | None,
    weights: torch.dtype,
    open_chain: Callable[[], TrainedChain | None],
) -> Drafter | None:
    """A drafter with refitted heads, or else with the chained modules or the target heads of training; None if there
    are none."""
    refitted = load_heads(run)
    if refitted is not None:
        return ChainedHeadDrafter(refitted[0].chain, sampling, length or 4, weights)
    if run.recipe.objective.target_heads == "chained":
        chain = open_chain()
        return None if chain is None else TrainedChainDrafter(chain, sampling, length)
    last, heads = run.recipe.model.layers, {}
    if run.recipe.objective.targets > 1 and run.heads_path.is_file():
        modules = run.load_objective().heads
        for k in range(2, run.recipe.objective.targets + 1):
            if f"layer{last}_target{k}" in modules:
                head = modules.get_submodule(f"layer{last}_target{k}")
                heads[k] = head.get_parameter("weight"), getattr(head, "bias", None)
    return IndependentHeadsDrafter(heads, sampling, length or 8) if 2 in heads else None


def _make_early_exit(
    run: Run, runner: ModelRunner, sampling: SamplingParams, length: int | None, weights: torch.dtype
) -> Drafter | None:
    """A drafter with the lowest refitted layer, or else with a layer whose loss was active until the end of training;
    None if there are neither."""
    refitted = load_heads(run)
    if refitted is not None and refitted[0].early_exit:
        layer = min(map(int, refitted[0].early_exit))
        weight = refitted[0].early_exit.get_submodule(str(layer)).get_parameter("weight")
        return EarlyExitDrafter(runner, layer, weight, None, sampling, length or 3)
    objective, layers = run.recipe.objective, run.recipe.model.layers
    active_until_end = (
        objective.intermediate_schedule in ("never", "constant")
        and objective.intermediate_heads == "own"
        and objective.intermediate
    )
    if not active_until_end or layers < 2 or not run.heads_path.is_file():
        return None
    layer = max(1, layers // 4)
    modules = run.load_objective().heads
    if f"layer{layer}_target1" not in modules:
        return None
    head = modules.get_submodule(f"layer{layer}_target1")
    normed = objective.intermediate_input == "normed"
    return EarlyExitDrafter(
        runner, layer, head.get_parameter("weight"), getattr(head, "bias", None), sampling, length or 3, normed
    )
