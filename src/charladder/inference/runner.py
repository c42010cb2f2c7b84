"""The interface of model runners, and the reference implementation.

Shapes: N rows, each one character of one sequence, T characters of one sequence, D width, V symbols.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from charladder.errors import UserError
from charladder.model.kv_cache import KVCache
from charladder.model.transformer import Transformer


@dataclass(frozen=True)
class TokenBatch:
    """Row n is character ids[n] at positions[n] of the sequence in slots[n]. The rows of a sequence must be adjacent,
    with consecutive positions. Cache entries at these and later positions are discarded, so a sequence is rolled back
    by reading from an earlier position."""

    slots: Sequence[int]
    positions: Sequence[int]
    ids: Sequence[int]


@dataclass(frozen=True)
class RunnerOutput:
    """x_ND: the hidden states after the last layer that was run. normed_ND (after the final norm) and logits_NV
    (for the character after each row) are None unless all layers were run. All float32."""

    x_ND: np.ndarray
    normed_ND: np.ndarray | None
    logits_NV: np.ndarray | None


class ModelRunner(Protocol):
    """A network with a cache of `slots` sequences of `context` characters."""

    slots: int
    context: int
    layers: int
    width: int
    alphabet_size: int
    owner: object  # the token of the generation loop that uses the cache

    def run(
        self, batch: TokenBatch, first_layer: int = 0, last_layer: int | None = None, x_ND: np.ndarray | None = None
    ) -> RunnerOutput:
        """Runs the layers after `first_layer` up to `last_layer` (default: all). x_ND: the output of `first_layer`; it
        is needed if that is not 0, and replaces the embeddings of the characters if it is. Raises UserError for slots,
        positions or ids out of range."""
        ...


def check_batch(runner: ModelRunner, batch: TokenBatch, last_position: int) -> None:
    """Raises UserError for slots, positions or ids that are out of the runner's range."""
    if last_position >= runner.context:
        raise UserError(f"{last_position + 1} characters are more than the {runner.context} the cache holds")
    ranges = (
        ("slot", batch.slots, runner.slots),
        ("position", batch.positions, runner.context),
        ("symbol", batch.ids, runner.alphabet_size),
    )
    for name, values, size in ranges:
        if min(values) < 0 or max(values) >= size:
            raise UserError(f"a {name} of the batch is not between 0 and {size - 1}")


class EagerRunner:
    """Runs the network's own modules, one sequence after the other. Works for every network and device; all other
    runners are tested against it."""

    def __init__(self, network: Transformer, slots: int, context: int) -> None:
        weight = network.output.weight
        self.network, self.slots, self.context = network, slots, context
        self.layers, self.width = network.settings.layers, network.settings.width
        self.alphabet_size = network.output.out_features
        self.owner: object = None
        self.caches = [KVCache(network.settings, 1, context, weight.dtype, weight.device) for _ in range(slots)]

    @torch.inference_mode()
    def run(
        self, batch: TokenBatch, first_layer: int = 0, last_layer: int | None = None, x_ND: np.ndarray | None = None
    ) -> RunnerOutput:
        last_layer = self.layers if last_layer is None else last_layer
        check_batch(self, batch, max(batch.positions))
        outputs, begin = [], 0
        while begin < len(batch.ids):
            end = begin + 1
            while end < len(batch.ids) and batch.slots[end] == batch.slots[begin]:
                end += 1
            below = None if x_ND is None else x_ND[begin:end]
            ids, position = list(batch.ids[begin:end]), batch.positions[begin]
            cache = self.caches[batch.slots[begin]]
            outputs.append(self._run_sequence(cache, position, ids, first_layer, last_layer, below))
            begin = end
        x_ND, normed_ND, logits_NV = (np.concatenate([part[i] for part in outputs]) for i in range(3))
        return RunnerOutput(x_ND, normed_ND, logits_NV) if last_layer == self.layers else RunnerOutput(x_ND, None, None)

    def _run_sequence(
        self, cache: KVCache, position: int, ids: list[int], first: int, last: int, below_TD: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        network, device = self.network, self.network.output.weight.device
        cache.seek(position)
        if below_TD is None:
            x_BTD = network.embed(torch.tensor([ids], device=device), cache)
        else:
            x_BTD = torch.from_numpy(below_TD).to(network.output.weight)[None]
        x_BTD = network.forward_layers(x_BTD, first, last, cache)
        x_TD = to_numpy(x_BTD[0])
        if last < self.layers:
            return x_TD, x_TD, x_TD
        normed_BTD = network.norm(x_BTD)
        return x_TD, to_numpy(normed_BTD[0]), to_numpy(network.output(normed_BTD)[0])


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
