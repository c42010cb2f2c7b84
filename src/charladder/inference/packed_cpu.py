"""A network packed for generation on a CPU, and a pass of it in one call of C (decode.c): nothing is left but the
reading of weights.

Shapes: N rows, D width, H heads, E head size, F feed-forward width, V symbols, S streams, C characters of context;
O outputs and K inputs of a matrix.
"""

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from charladder.errors import UserError
from charladder.inference.runner import RunnerOutput, TokenBatch
from charladder.kernels import native
from charladder.model.norm import EPSILON
from charladder.model.rotary import rotary_angles
from charladder.model.transformer import Transformer

PANEL, LANES, TILE = 32, 16, 6
SHARED_CACHE_BYTES = 8 << 20  # bytes of weights that a cache holds which cores share, as in decode.c
LARGE_PAGE = 2 << 20  # bytes


class CNetwork(ctypes.Structure):
    """As in decode.c."""

    _fields_ = [
        *((name, ctypes.c_long) for name in "LDHEFVC"),
        ("epsilon", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("embedding", "final_gain", "cos", "sin", "output", "layers", "cache")),
    ]


class CDecodeSteps(ctypes.Structure):
    """As in decode.c."""

    _fields_ = [
        ("T", ctypes.c_long),
        *((name, ctypes.c_void_p) for name in ("streams", "places", "first", "steps", "choose", "how", "uniform")),
        *((name, ctypes.c_void_p) for name in ("ids", "nats", "x", "final", "logits", "work", "seen")),
    ]


def aligned_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """numpy asks the system for large pages, which torch does not: less to look up in long reads of memory. What is
    large begins with one."""
    count = math.prod(shape) * dtype.itemsize
    spare = LARGE_PAGE if count > LARGE_PAGE else 1
    room = np.zeros(count + spare, np.uint8)
    skipped = -room.ctypes.data % spare
    return torch.from_numpy(room[skipped : skipped + count]).view(dtype).view(shape)


def pack_panels(matrix_OK: Tensor, dtype: torch.dtype) -> Tensor:
    """(ceil(O / 32), K, 32); in bfloat16, (ceil(O / 32), K / 2, 32, 2), K filled up to a multiple of 32. What is
    missing is 0."""
    outputs, inputs = matrix_OK.shape
    pair = 1 if dtype == torch.float32 else 2
    K = inputs if pair == 1 else -(-inputs // PANEL) * PANEL
    padded = torch.zeros(-(-outputs // PANEL) * PANEL, K, dtype=dtype)
    padded[:outputs, :inputs] = matrix_OK
    panels = padded.view(-1, PANEL, K // pair, pair).transpose(1, 2)
    return aligned_zeros(tuple(panels.shape), dtype).copy_(panels)


def scratch_size(rows: int, widest: int) -> int:
    """float32 numbers of room a thread wants for rows of inputs rounded to bfloat16, as in panels.h."""
    rows = min(rows if rows <= 16 else -(-rows // 32) * 32, 128)
    return rows * -(-widest // 32) * 16


def interleave_gate(gate_FD: Tensor, up_FD: Tensor) -> Tensor:
    """16 gates, then the 16 rows that they let through, and so on: (2 F, D), F filled up to a multiple of 16."""
    F, D = gate_FD.shape
    both = torch.zeros(2, -(-F // LANES) * LANES, D)
    both[0, :F], both[1, :F] = gate_FD, up_FD
    return both.view(2, -1, LANES, D).transpose(0, 1).reshape(-1, D)


def address(tensor: Tensor | np.ndarray) -> ctypes.c_void_p:
    """Where a contiguous tensor or array lies, for C."""
    if isinstance(tensor, Tensor):
        assert tensor.is_contiguous()
        return ctypes.c_void_p(tensor.data_ptr())
    assert tensor.flags.c_contiguous
    return ctypes.c_void_p(tensor.ctypes.data)


def can_pack(network: Transformer, dtype: torch.dtype = torch.float32) -> bool:
    """Whether decode.c computes such a network, and can be had here."""
    weight = network.output.weight
    here = weight.device.type == "cpu" and weight.dtype == torch.float32
    return has_packed_architecture(network) and here and native.library(dtype) is not None


def has_packed_architecture(network: Transformer) -> bool:
    """Whether decode.c computes such networks."""
    s = network.settings
    return (s.block, s.norm_placement, s.positions, s.ngrams, s.head_size % 2) == ("modern", "pre", "rotary", 0, 0)


class PackedWeights:
    """The network's weights, packed once, in float32 or bfloat16; norms and embeddings stay in float32. Readers keep
    keys and values in the same type."""

    def __init__(self, network: Transformer, dtype: torch.dtype = torch.float32) -> None:
        found = native.library(dtype)
        assert found is not None and can_pack(network, dtype)
        self.library, self.dtype, self.settings = found, dtype, network.settings
        self.embedding = network.embedding.weight.detach().clone()
        self.final_gain = cast(Tensor, network.norm.weight).detach().clone()
        self.output = pack_panels(network.output.weight.detach(), dtype)
        self.alphabet = len(network.output.weight)
        self.layer_tensors: list[Tensor] = []
        for block in network.blocks:
            b = cast(Any, block)
            a, f = b.attention, b.feed_forward
            self.layer_tensors += [
                p.detach().contiguous()
                for p in (
                    b.attention_norm.weight.clone(),
                    pack_panels(torch.cat([a.query.weight, a.key.weight, a.value.weight]), dtype),
                    torch.stack([a.query_norm.weight, a.key_norm.weight]),
                    pack_panels(a.output.weight, dtype),
                    b.feed_forward_norm.weight.clone(),
                    pack_panels(interleave_gate(f.gate.weight, f.up.weight), dtype),
                    pack_panels(f.down.weight, dtype),
                )
            ]


class PackedRunner:
    """Streams that a network reads. Its figures lie in arrays that the next call overwrites."""

    def __init__(self, weights: PackedWeights, slots: int, context: int) -> None:
        s = weights.settings
        self.weights, self.slots, self.context, self.layers = weights, slots, context, s.layers
        self.width, self.alphabet_size = s.width, weights.alphabet
        groups, wide = -(-context // LANES), -(-s.head_size // LANES) * LANES
        keys, values = (
            (slots, s.attention_heads, groups, s.head_size, LANES),
            (slots, s.attention_heads, context, wide),
        )
        sizes = [math.prod(shape) for _ in range(s.layers) for shape in (keys, values)]
        whole = aligned_zeros((sum(sizes),), weights.dtype)
        self.cache: list[Tensor] = [
            part.view(shape) for part, shape in zip(whole.split(sizes), [keys, values] * s.layers, strict=True)
        ]
        self.angles = rotary_angles(s, context)
        self.network = CNetwork(
            s.layers, s.width, s.attention_heads, s.head_size, s.feed_forward, weights.alphabet, context, EPSILON,
            *(address(t) for t in (weights.embedding, weights.final_gain, *self.angles, weights.output)),
            *(ctypes.cast(_pointer_array(tensors), ctypes.c_void_p) for tensors in (weights.layer_tensors, self.cache)),
        )  # fmt: skip
        self.network_ref = ctypes.byref(self.network)
        self.allocated_rows, self.owner = 0, cast(object, None)
        self._uses_all_threads: Callable[[int], bool] = lambda products: True
        self.multiplications = sum(p.numel() for p in weights.layer_tensors) + weights.output.numel()  # of a row
        self.fits_cache = (
            self.multiplications * weights.dtype.itemsize <= SHARED_CACHE_BYTES
        )  # a row costs little less in company

    def set_thread_policy(self, uses_all_threads: Callable[[int], bool]) -> None:
        """uses_all_threads: whether all threads share a pass, given its number of multiplications."""
        self._uses_all_threads = uses_all_threads

    def run(
        self, batch: TokenBatch, first_layer: int = 0, last_layer: int | None = None, x_ND: np.ndarray | None = None
    ) -> RunnerOutput:
        """As reading.Reader says."""
        N, last_layer = len(batch.ids), self.layers if last_layer is None else last_layer
        self._prepare(batch, max(batch.positions))
        if first_layer:
            assert x_ND is not None
            self.x[:N] = x_ND
        whole = last_layer == self.layers
        x, final, logits, work = self.buffers
        longs = ctypes.c_int64 * N
        self.weights.library.decode(
            self.network_ref, ctypes.c_long(N), longs(*batch.slots), longs(*batch.positions),
            None if first_layer else longs(*batch.ids), x, ctypes.c_long(first_layer), ctypes.c_long(last_layer),
            final if whole else None, logits if whole else None, work, self._thread_count(N),
        )  # fmt: skip
        return (
            RunnerOutput(self.x[:N], self.final[:N], self.logits[:N]) if whole else RunnerOutput(self.x[:N], None, None)
        )

    def run_steps(
        self,
        batch: TokenBatch,
        steps: Sequence[int],
        sample: ctypes.c_void_p,
        sampling: ctypes.Structure,
        uniform_NT: np.ndarray,
        with_logits: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
        """Further characters of streams, one row each, so many of each, by a function of C as decode.c describes it,
        its settings and uniform numbers (float64, a row for each stream): their ids and nats, (N, T), what the output
        layer read last, (N, D), and, where somebody is looking, the logits of all of them, (N, T, V); else (N, 0, V).
        None where logits are no numbers. Raises as `read` does."""
        N, T = uniform_NT.shape
        self._prepare(batch, max(place + count - 1 for place, count in zip(batch.positions, steps, strict=True)))
        ids_NT, nats_NT, longs = np.zeros((N, T), np.int64), np.zeros((N, T)), ctypes.c_int64 * N
        seen_NTV = np.zeros((N, T if with_logits else 0, self.alphabet_size), np.float32)
        x, final, logits, work = self.buffers
        given = [longs(*numbers) for numbers in (batch.slots, batch.positions, batch.ids, steps)]
        bad = self.weights.library.decode_steps(
            self.network_ref, ctypes.c_long(N),
            ctypes.byref(
                CDecodeSteps(
                    T, *(ctypes.addressof(one) for one in given), sample, ctypes.addressof(sampling),
                    *(address(array) for array in (uniform_NT, ids_NT, nats_NT)), x, final, logits, work,
                    address(seen_NTV) if with_logits else None,
                )
            ),
            self._thread_count(N),
        )  # fmt: skip
        return None if bad else (ids_NT, nats_NT, self.final[:N], seen_NTV)

    def _thread_count(self, rows: int) -> ctypes.c_int:
        """How many threads take part in a pass of so many."""
        return ctypes.c_int(self.threads if self._uses_all_threads(rows * self.multiplications) else 1)

    def _prepare(self, rows: TokenBatch, furthest: int) -> None:
        """Room for so many rows. Raises UserError where one is nowhere."""
        if self.allocated_rows < len(rows.ids):
            self._allocate(len(rows.ids))
        if furthest >= self.context:
            raise UserError(f"{furthest + 1} characters are more than the {self.context} the cache holds")
        if (
            not 0 <= min(rows.slots) <= max(rows.slots) < self.slots
            or min(rows.positions) < 0
            or not 0 <= min(rows.ids) <= max(rows.ids) < self.alphabet_size
        ):
            raise UserError("there is no such stream or character")

    def _allocate(self, rows: int) -> None:
        s, groups = self.weights.settings, -(-self.context // LANES)
        self.allocated_rows, self.threads = rows, torch.get_num_threads()
        self.x, self.final = np.zeros((rows, s.width), np.float32), np.zeros((rows, s.width), np.float32)
        self.logits = np.zeros((rows, self.alphabet_size), np.float32)
        shared = rows * (3 * s.width + s.feed_forward)
        own = rows * s.width + groups * LANES + scratch_size(rows, max(s.width, s.feed_forward))
        self.work = np.zeros(shared + self.threads * own, np.float32)
        self.buffers = [address(array) for array in (self.x, self.final, self.logits, self.work)]


def _pointer_array(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))
