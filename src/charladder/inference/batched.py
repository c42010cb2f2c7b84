"""The batched runner: runs the modules of a network on several sequences at once, on any device. Sequences with equally
many new characters are computed in one pass.

The last bits of a result may depend on the other sequences, because matrix products of different sizes round
differently. On a GPU, passes with few new characters per sequence are CUDA graphs, captured once for each number of
sequences, number of new characters and padded length.

Shapes: N rows, S sequences, T new characters of each, L padded length, C context, D width, H heads, E head size,
V symbols, W numbers of a row of the output.
"""

from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from charladder.inference.runner import RunnerOutput, TokenBatch, check_batch
from charladder.kernels import cuda_graph
from charladder.model.kv_cache import cache_memory
from charladder.model.position_tables import table_length
from charladder.model.rotary import rotary_angles
from charladder.model.sinusoidal import sinusoidal_signal
from charladder.model.transformer import Transformer

MAX_GRAPH_TOKENS = 8  # new characters of each sequence in a pass that is a graph
MIN_GRAPH_LENGTH = 64  # lengths are padded to this and its doubles, so that there are few graphs


@dataclass(frozen=True)
class CacheIndex:
    """Where the keys and values of new characters are written, and the attention mask."""

    slots_S1: Tensor
    positions_ST: Tensor
    slots: slice | Tensor  # the same slots, as a slice if they are adjacent
    length: int
    mask_S1TL: Tensor


class BatchedRunner:
    """A cache of `slots` sequences of `context` characters, in the dtype of the network's weights."""

    def __init__(self, network: Transformer, slots: int, context: int) -> None:
        weight, s = network.output.weight, network.settings
        self.network, self.slots, self.context = network, slots, context
        self.layers, self.width, self.alphabet_size = s.layers, s.width, network.output.out_features
        self.owner: object = None
        self.device, self.dtype = weight.device, network.embedding.weight.dtype
        self.graphs: dict[tuple[int, int, int], Any] = {}
        self.pool: Any = None  # shared by all graphs: the output of one is copied before the next is replayed
        self.angles: tuple[Tensor, Tensor] | None = None
        self.signal: Tensor | None = None
        # On a GPU of the whole context, because graphs read these tables at fixed addresses.
        self._compute_position_tables(context if self.device.type == "cuda" else table_length(1, context))
        # One more slot than there are sequences: graphs write their padding rows to it.
        shape = (slots + 1, s.attention_heads, context, s.head_size)
        self.keys = [cache_memory(shape, self.dtype, self.device) for _ in range(s.layers)]
        self.values = [cache_memory(shape, self.dtype, self.device) for _ in range(s.layers)]
        self.ids_SC = cache_memory((slots + 1, context), torch.long, self.device)

    def _compute_position_tables(self, length: int) -> None:
        """The rotary angles or the sinusoidal signal of the first positions."""
        s, self._table_length = self.network.settings, length
        if s.positions == "rotary":
            cos, sin = rotary_angles(s, length)
            self.angles = cos.to(self.device), sin.to(self.device)
        elif s.positions == "sinusoidal":
            self.signal = sinusoidal_signal(length, s.width).to(self.device, self.dtype)

    @torch.inference_mode()
    def run(
        self, batch: TokenBatch, first_layer: int = 0, last_layer: int | None = None, x_ND: np.ndarray | None = None
    ) -> RunnerOutput:
        last_layer = self.layers if last_layer is None else last_layer
        end = max(batch.positions) + 1
        check_batch(self, batch, end - 1)  # an index out of range would make the GPU unusable
        if end > self._table_length:
            self._compute_position_tables(table_length(end, self.context))
        slots, positions, ids = (np.asarray(part, np.int64) for part in (batch.slots, batch.positions, batch.ids))
        edges = np.flatnonzero(np.diff(slots, prepend=-1, append=-1))
        runs = sorted(zip(edges[1:] - edges[:-1], slots[edges[:-1]], edges[:-1], strict=True))
        to_output = last_layer == self.layers
        output = np.empty((len(ids), (2 * self.width + self.alphabet_size) if to_output else self.width), np.float32)
        for count, group in groupby(runs, key=lambda run: run[0]):
            rows_ST = np.array([begin for _, _, begin in group])[:, None] + np.arange(count)
            part = np.stack((ids[rows_ST], positions[rows_ST], slots[rows_ST]))
            can_replay = first_layer == 0 and to_output and x_ND is None
            if can_replay and count <= MAX_GRAPH_TOKENS and self.device.type == "cuda":
                output[rows_ST] = self.replay(part)
                continue
            below_STD = None if x_ND is None else torch.from_numpy(x_ND[rows_ST]).to(self.keys[0])
            inputs = torch.from_numpy(part).to(self.device)
            length = self.padded_length(int(part[1].max()) + 1)
            index = self._slot_index(part[2, :, 0])
            result = self.forward_layers(inputs, index, length, first_layer, last_layer, below_STD)
            output[rows_ST] = result.cpu().numpy()
        if not to_output:
            return RunnerOutput(output, None, None)
        return RunnerOutput(*map(np.ascontiguousarray, np.split(output, [self.width, 2 * self.width], axis=1)))

    def padded_length(self, length: int) -> int:
        """How many cached characters a pass attends to; rounded up on a GPU, so that there are few graphs."""
        if self.device.type != "cuda":
            return length
        return min(self.context, max(MIN_GRAPH_LENGTH, 1 << (length - 1).bit_length()))

    def _slot_index(self, slots_S: np.ndarray) -> slice | Tensor:
        """An index of these slots: a slice, which needs no copy, if they are adjacent."""
        begin, end = int(slots_S[0]), int(slots_S[-1]) + 1
        if end - begin == len(slots_S) and (np.diff(slots_S) == 1).all():
            return slice(begin, end)
        return torch.from_numpy(slots_S).to(self.device)

    def forward_layers(
        self, inputs_3ST: Tensor, slots: slice | Tensor, length: int, first: int, last: int, x_STD: Tensor | None
    ) -> Tensor:
        """inputs: ids, positions and slots. Returns in float32 the hidden states after layer `last`, (S, T, D); after
        the last layer also input and output of the output layer, concatenated: (S, T, 2 D + V)."""
        network, (ids_ST, positions_ST, slots_ST) = self.network, inputs_3ST
        slots_S1 = slots_ST[:, :1]
        if x_STD is None:
            self.ids_SC[slots_S1, positions_ST] = ids_ST
            seen_SB = ids_ST
            if network.lookback:
                earlier_SB = positions_ST[:, :1] + torch.arange(-network.lookback, 0, device=self.device)
                earlier_ids_SB = torch.where(earlier_SB < 0, -1, self.ids_SC[slots_S1, earlier_SB.clamp(0)])
                seen_SB = torch.cat((earlier_ids_SB, ids_ST), 1)
            x_STD = network.embed_end(seen_SB, ids_ST.shape[1])
        mask_S1TL = torch.arange(length, device=self.device) <= positions_ST[:, None, :, None]
        index = CacheIndex(slots_S1, positions_ST, slots, length, mask_S1TL)
        angles = None
        if self.angles is not None:  # (S, 1, T, E)
            angles = self.angles[0][positions_ST][:, None], self.angles[1][positions_ST][:, None]
        for layer in range(first, last):
            assert x_STD is not None
            table_CD = network.tables[layer] if layer < len(network.tables) else self.signal if layer == 0 else None
            if table_CD is not None:
                x_STD = x_STD + table_CD[positions_ST]
            x_STD = network.blocks[layer](x_STD, angles, partial(self._extend_cache, layer, index), None)
        assert x_STD is not None
        if last < self.layers:
            return x_STD.float()
        normed_STD = network.norm(x_STD)
        logits_STV = network.output(normed_STD.to(network.output.weight.dtype))
        return torch.cat((x_STD.float(), normed_STD.float(), logits_STV.float()), -1)

    def _extend_cache(
        self, layer: int, index: CacheIndex, key_SHTE: Tensor, value_SHTE: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Writes the new keys and values. Returns all keys and values of these sequences, and the mask."""
        result = []
        for cache, new_SHTE in ((self.keys[layer], key_SHTE), (self.values[layer], value_SHTE)):
            cache[index.slots_S1, :, index.positions_ST] = new_SHTE.transpose(1, 2)
            result.append(cache[index.slots, :, : index.length])
        return result[0], result[1], index.mask_S1TL

    def replay(self, inputs_3ST: np.ndarray) -> np.ndarray:
        """Runs the whole network on few new characters of each sequence through a CUDA graph: (S, T, 2 D + V)."""
        _, S, T = inputs_3ST.shape
        count = min(1 << (S - 1).bit_length(), self.slots)
        length = self.padded_length(int(inputs_3ST[1].max()) + 1)
        padded_3ST = np.zeros((3, count, T), np.int64)
        padded_3ST[2] = self.slots  # the padding slot
        padded_3ST[:, :S] = inputs_3ST
        key = count, T, length
        if key not in self.graphs:
            try:
                self.graphs[key] = self.capture(torch.from_numpy(padded_3ST).to(self.device), length)
            except RuntimeError:  # capture failed, for example because memory is short
                self.graphs[key] = None
        if self.graphs[key] is None:
            batch_3ST = torch.from_numpy(padded_3ST).to(self.device)
            return self.forward_layers(batch_3ST, batch_3ST[2, :, 0], length, 0, self.layers, None)[:S].cpu().numpy()
        graph, batch_3ST, output_STW = self.graphs[key]
        batch_3ST.copy_(torch.from_numpy(padded_3ST))
        graph.replay()
        return output_STW[:S].cpu().numpy()

    def capture(self, inputs_3ST: Tensor, length: int) -> tuple[Any, Tensor, Tensor]:
        """A graph, its input tensor and its output tensor."""

        def forward() -> Tensor:
            return self.forward_layers(inputs_3ST, inputs_3ST[2, :, 0], length, 0, self.layers, None)

        graph, output_STW = cuda_graph.capture(forward, self.device, pool=self.pool)
        self.pool = graph.pool()
        return graph, inputs_3ST, output_STW
