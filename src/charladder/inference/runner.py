"""The interface of model runners, and the reference runner: a network with a KV cache for several sequences.

Shapes: N rows, each one character of one sequence, D width, V symbols.
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
    with positions that rise by one. What the cache held at these positions and after them is overwritten, which is how
    a sequence is rolled back."""

    slots: Sequence[int]
    positions: Sequence[int]
    ids: Sequence[int]


@dataclass(frozen=True)
class RunnerOutput:
    """x_ND: the hidden states above the last layer that was run. After the whole network also final_ND, the input of
    the output layer, and logits_NV, of the character after each row; otherwise None. All float32."""

    x_ND: np.ndarray
    final_ND: np.ndarray | None
    logits_NV: np.ndarray | None


class ModelRunner(Protocol):
    """A network with a cache of `slots` sequences of `context` characters."""

    slots: int
    context: int
    layers: int
    width: int
    alphabet_size: int
    owner: object  # a mark of the generation loop that uses it

    def run(
        self, batch: TokenBatch, first_layer: int = 0, last_layer: int | None = None, x_ND: np.ndarray | None = None
    ) -> RunnerOutput:
        """Runs the layers after `first` up to `last` (by default all of them) on a batch. x_ND: the output of layer
        `first`, where that is not 0. Raises UserError for a position past the context."""
        ...


class EagerRunner:
    """Runs the network's own modules, one sequence after the other: the reference for all other runners. It works for
    every network and device."""

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
        found = []
        begin = 0
        while begin < len(batch.ids):
            end = begin + 1
            while end < len(batch.ids) and batch.slots[end] == batch.slots[begin]:
                end += 1
            below = None if x_ND is None or not first_layer else x_ND[begin:end]
            ids, place = list(batch.ids[begin:end]), batch.positions[begin]
            found.append(
                self._run_sequence(self.caches[batch.slots[begin]], place, ids, first_layer, last_layer, below)
            )
            begin = end
        x_ND, final_ND, logits_NV = (np.concatenate([part[i] for part in found]) for i in range(3))
        return RunnerOutput(x_ND, final_ND, logits_NV) if last_layer == self.layers else RunnerOutput(x_ND, None, None)

    def _run_sequence(
        self, cache: KVCache, place: int, ids: list[int], first: int, last: int, below_TD: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        network, device = self.network, self.network.output.weight.device
        if place + len(ids) > cache.capacity:
            raise UserError(f"{place + len(ids)} characters are more than the {cache.capacity} the cache holds")
        cache.seek(place)
        if below_TD is None:
            x_BTD = network.embed(torch.tensor([ids], device=device), cache)
        else:
            x_BTD = torch.from_numpy(below_TD).to(network.output.weight)[None]
        x_BTD = network.forward_layers(x_BTD, first, last, cache)
        x_TD = to_numpy(x_BTD[0])
        if last < self.layers:
            return x_TD, x_TD, x_TD
        final_BTD = network.norm(x_BTD)
        return x_TD, to_numpy(final_BTD[0]), to_numpy(network.output(final_BTD)[0])


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
