"""The batched runner: runs a network's own modules on several sequences at once, on any device. Sequences with the same
number of new characters share a pass, whatever their lengths.

The result of a row may depend in its last bits on the other rows, as with matrix products of different sizes. On a GPU,
passes with few new characters per sequence, as in generation, are CUDA graphs: one is captured for each number of
sequences, of characters and each padded length, and then replayed.

Shapes: N rows, S sequences, T characters of each, L characters seen at most, D width, H heads, E head size, V symbols.
"""

from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from charladder.errors import UserError
from charladder.inference.runner import RunnerOutput, TokenBatch
from charladder.kernels import cuda_graph
from charladder.model.rotary import rotary_angles
from charladder.model.sinusoidal import sinusoidal_signal
from charladder.model.transformer import Transformer

MAX_GRAPH_TOKENS = 8  # new characters of each stream at most that are read by a graph
MIN_GRAPH_LENGTH = 64  # characters that a GPU looks back to, at least: lengths are rounded up to twice that, and so on


@dataclass(frozen=True)
class CacheIndex:
    """Where the keys and values of new characters are written, and the attention mask."""

    streams_S1: Tensor
    places_ST: Tensor
    held: slice | Tensor  # the slots, to index whole sequences
    longest: int
    seen_S1TL: Tensor


class BatchedRunner:
    """A cache of `slots` sequences of `context` characters, in the dtype of the network's weights."""

    def __init__(self, network: Transformer, slots: int, context: int) -> None:
        weight, s = network.output.weight, network.settings
        self.network, self.slots, self.context = network, slots, context
        self.layers, self.width, self.alphabet_size = s.layers, s.width, network.output.out_features
        self.owner: object = None
        self.device, self.dtype = weight.device, network.embedding.weight.dtype
        self.graphs: dict[tuple[int, int, int], Any] = {}
        self.pool: Any = None  # memory of all graphs: they run one after another, and what they give is taken at once
        # Of its own: a graph reads it where it lies.
        self.angles = (
            tuple(angle.to(self.device) for angle in rotary_angles(s, context)) if s.positions == "rotary" else None
        )
        sinusoidal = s.positions == "sinusoidal"
        self.signal = sinusoidal_signal(context, s.width).to(self.device, self.dtype) if sinusoidal else None
        # One stream more: a graph for a few more streams than there are writes what is over to it.
        shape = (slots + 1, s.attention_heads, context, s.head_size)
        like: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        self.keys = [torch.zeros(shape, **like) for _ in range(s.layers)]
        self.values = [torch.zeros(shape, **like) for _ in range(s.layers)]
        self.ids_SC = torch.zeros(slots + 1, context, dtype=torch.long, device=self.device)

    @torch.inference_mode()
    def run(
        self, batch: TokenBatch, first_layer: int = 0, last_layer: int | None = None, x_ND: np.ndarray | None = None
    ) -> RunnerOutput:
        last_layer = self.layers if last_layer is None else last_layer
        numbers, places, ids = (np.asarray(part, dtype=np.int64) for part in (batch.slots, batch.positions, batch.ids))
        if places.max(initial=0) >= self.context:
            raise UserError(f"{places.max() + 1} characters are more than the {self.context} the cache holds")
        limits = (
            ("streams", numbers, self.slots),
            ("places", places, self.context),
            ("symbols", ids, self.alphabet_size),
        )
        for what, part, count in limits:
            if part.min(initial=0) < 0 or part.max(initial=0) >= count:  # which on a GPU would end all it does
                raise UserError(f"{what} {part.min()} to {part.max()} were to be read, and there are {count}")
        edges = np.flatnonzero(np.diff(numbers, prepend=-1, append=-1))
        runs = sorted(zip(edges[1:] - edges[:-1], numbers[edges[:-1]], edges[:-1], strict=True))
        whole = last_layer == self.layers
        found = np.empty((len(ids), (2 * self.width + self.alphabet_size) if whole else self.width), np.float32)
        for length, some in groupby(runs, key=lambda run: run[0]):
            at_ST = np.array([begin for _, _, begin in some])[:, None] + np.arange(length)
            asked = np.stack((ids[at_ST], places[at_ST], numbers[at_ST]))
            if first_layer == 0 and whole and length <= MAX_GRAPH_TOKENS and self.device.type == "cuda":
                found[at_ST] = self.replay(asked)
                continue
            below_STD = None if x_ND is None or not first_layer else torch.from_numpy(x_ND[at_ST]).to(self.keys[0])
            given = torch.from_numpy(asked).to(self.device)
            longest = self.padded_length(int(asked[1].max()) + 1)
            found[at_ST] = (
                self.forward_layers(
                    given, self._slot_index(asked[2, :, 0]), longest, first_layer, last_layer, below_STD
                )
                .cpu()
                .numpy()
            )
        if not whole:
            return RunnerOutput(found, None, None)
        return RunnerOutput(*map(np.ascontiguousarray, np.split(found, [self.width, 2 * self.width], axis=1)))

    def padded_length(self, longest: int) -> int:
        """The length up to which a pass attends. On a GPU it is rounded up, so that there are few different graphs."""
        if self.device.type != "cuda":
            return longest
        return min(self.context, max(MIN_GRAPH_LENGTH, 1 << (longest - 1).bit_length()))

    def _slot_index(self, numbers_S: np.ndarray) -> slice | Tensor:
        """The index of these slots: a slice where they are adjacent, which needs no copy."""
        begin, end = int(numbers_S[0]), int(numbers_S[-1]) + 1
        if end - begin == len(numbers_S) and (np.diff(numbers_S) == 1).all():
            return slice(begin, end)
        return torch.from_numpy(numbers_S).to(self.device)

    def forward_layers(
        self, given_3ST: Tensor, held: slice | Tensor, longest: int, first: int, last: int, x_STD: Tensor | None
    ) -> Tensor:
        """given: ids, positions and slots. Returns the hidden states above layer `last`, (S, T, D), or after the whole
        network hidden states, input and output of the output layer, (S, T, 2 D + V), in float32."""
        network, (ids_ST, places_ST, streams_ST) = self.network, given_3ST
        streams_S1 = streams_ST[:, :1]
        if x_STD is None:
            self.ids_SC[streams_S1, places_ST] = ids_ST
            x_STD = network.embedding(ids_ST)
            if network.ngrams is not None:
                before_SB = places_ST[:, :1] + torch.arange(1 - network.ngrams.largest, 0, device=self.device)
                known_SB = torch.where(before_SB < 0, -1, self.ids_SC[streams_S1, before_SB.clamp(0)])
                x_STD = x_STD + network.ngrams(torch.cat((known_SB, ids_ST), 1), ids_ST.shape[1])
        seen_S1TL = torch.arange(longest, device=self.device) <= places_ST[:, None, :, None]
        where = CacheIndex(streams_S1, places_ST, held, longest, seen_S1TL)
        angles = None
        if self.angles is not None:  # (S, 1, T, E): of each character's own place
            angles = self.angles[0][places_ST][:, None], self.angles[1][places_ST][:, None]
        for layer in range(first, last):
            assert x_STD is not None
            table_CD = network.tables[layer] if layer < len(network.tables) else self.signal if layer == 0 else None
            if table_CD is not None:
                x_STD = x_STD + table_CD[places_ST]
            x_STD = network.blocks[layer](x_STD, angles, partial(self._extend_cache, layer, where), None)
        assert x_STD is not None
        if last < self.layers:
            return x_STD.float()
        final_STD = network.norm(x_STD)
        logits_STV = network.output(final_STD.to(network.output.weight.dtype))
        return torch.cat((x_STD.float(), final_STD.float(), logits_STV.float()), -1)

    def _extend_cache(
        self, layer: int, where: CacheIndex, key_SHTE: Tensor, value_SHTE: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Writes keys and values of new characters; all of these streams, and what of them may be seen."""
        whole = []
        for kept, new_SHTE in ((self.keys[layer], key_SHTE), (self.values[layer], value_SHTE)):
            kept[where.streams_S1, :, where.places_ST] = new_SHTE.transpose(1, 2)
            whole.append(kept[where.held, :, : where.longest])
        return whole[0], whole[1], where.seen_S1TL

    def replay(self, asked_3ST: np.ndarray) -> np.ndarray:
        """Few new characters of each stream, on a GPU: (S, T, 2 D + V)."""
        _, S, T = asked_3ST.shape
        count = min(1 << (S - 1).bit_length(), self.slots)
        longest = self.padded_length(int(asked_3ST[1].max()) + 1)
        padded_3ST = np.zeros((3, count, T), np.int64)
        padded_3ST[2] = self.slots  # the slot that no sequence has
        padded_3ST[:, :S] = asked_3ST
        key = count, T, longest
        if key not in self.graphs:
            try:
                self.graphs[key] = self.capture(torch.from_numpy(padded_3ST).to(self.device), longest)
            except RuntimeError:  # too little memory, perhaps
                self.graphs[key] = None
        if self.graphs[key] is None:  # then as it is
            given_3ST = torch.from_numpy(padded_3ST).to(self.device)
            return self.forward_layers(given_3ST, given_3ST[2, :, 0], longest, 0, self.layers, None)[:S].cpu().numpy()
        graph, given_3ST, found_STW = self.graphs[key]
        given_3ST.copy_(torch.from_numpy(padded_3ST))
        graph.replay()
        return found_STW[:S].cpu().numpy()

    def capture(self, given_3ST: Tensor, longest: int) -> tuple[Any, Tensor, Tensor]:
        """A graph, its input tensor and its output tensor."""

        def climb() -> Tensor:
            return self.forward_layers(given_3ST, given_3ST[2, :, 0], longest, 0, self.layers, None)

        graph, found_STW = cuda_graph.capture(climb, self.device, pool=self.pool)
        self.pool = graph.pool()
        return graph, given_3ST, found_STW
