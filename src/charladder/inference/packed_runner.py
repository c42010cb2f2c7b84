"""The packed runner: a pass is one call of C (decode.c) on packed weights.

Shapes: N rows, T characters of a sequence, D width, V symbols.
"""

import ctypes
import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from charladder.inference.pack_weights import LANES, PackedWeights, aligned_zeros, scratch_size
from charladder.inference.runner import RunnerOutput, TokenBatch, check_batch
from charladder.inference.thread_choice import ThreadChoice, ThreadChoices
from charladder.kernels.native import address
from charladder.model.norm import EPSILON
from charladder.model.position_tables import table_length
from charladder.model.rotary import rotary_angles

TILE_ROWS = 6  # rows that a matrix product computes together, as in csrc/gemm/panels.h
SHARED_CACHE_BYTES = 8 << 20  # weights up to this size stay in the cache that all cores share, as in decode.c


class CNetwork(ctypes.Structure):
    """The struct Network in kv_cache.h."""

    _fields_ = [
        *((name, ctypes.c_long) for name in "LDHEFVC"),
        ("epsilon", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("embedding", "final_gain", "cos", "sin", "output", "layers", "cache")),
    ]


class CDecodeSteps(ctypes.Structure):
    """The struct DecodeSteps in decode.c."""

    _fields_ = [
        ("T", ctypes.c_long),
        *((name, ctypes.c_void_p) for name in ("slots", "positions", "input_ids", "steps", "sample", "sampling")),
        *((name, ctypes.c_void_p) for name in ("uniform", "ids", "nats", "x", "final", "logits", "work")),
        *((name, ctypes.c_void_p) for name in ("all_logits", "all_finals")),
    ]


class PackedRunner:
    """Runs packed weights; keys and values have the same dtype. Outputs are valid until the next call."""

    def __init__(self, weights: PackedWeights, slots: int, context: int) -> None:
        s = weights.settings
        self.weights, self.slots, self.context, self.layers = weights, slots, context, s.layers
        self.width, self.alphabet_size = s.width, weights.alphabet
        groups, padded_head_size = -(-context // LANES), -(-s.head_size // LANES) * LANES
        keys, values = (
            (slots, s.attention_heads, groups, s.head_size, LANES),
            (slots, s.attention_heads, context, padded_head_size),
        )
        sizes = [math.prod(shape) for _ in range(s.layers) for shape in (keys, values)]
        memory = aligned_zeros((sum(sizes),), weights.dtype)
        self.cache: list[Tensor] = [
            part.view(shape) for part, shape in zip(memory.split(sizes), [keys, values] * s.layers, strict=True)
        ]
        self.angles = rotary_angles(s, table_length(1, context))
        self.network = CNetwork(
            s.layers, s.width, s.attention_heads, s.head_size, s.feed_forward, weights.alphabet, context, EPSILON,
            *(address(t) for t in (weights.embedding, weights.final_gain, *self.angles, weights.output)),
            *(ctypes.cast(_pointer_array(tensors), ctypes.c_void_p) for tensors in (weights.layer_tensors, self.cache)),
        )  # fmt: skip
        self.network_ref = ctypes.byref(self.network)
        self.allocated_rows, self.owner = 0, cast(object, None)
        self.uses_all_threads: Callable[[int], bool] = lambda multiplications: True
        self._thread_choices = ThreadChoices()
        self.multiplications = sum(p.numel() for p in weights.layer_tensors) + weights.output.numel()  # for one row
        # If the weights fit that cache, a pass over N rows takes nearly N times as long as over one row.
        self.fits_cache = self.multiplications * weights.dtype.itemsize <= SHARED_CACHE_BYTES

    def set_thread_policy(self, uses_all_threads: Callable[[int], bool]) -> None:
        """uses_all_threads: whether a pass may use all threads, from its number of multiplications. If it may, the
        faster choice is measured."""
        self.uses_all_threads = uses_all_threads

    def run(
        self, batch: TokenBatch, first_layer: int = 0, last_layer: int | None = None, x_ND: np.ndarray | None = None
    ) -> RunnerOutput:
        """See ModelRunner.run."""
        N, last_layer = len(batch.ids), self.layers if last_layer is None else last_layer
        self._prepare(batch, max(batch.positions))
        assert x_ND is not None or not first_layer
        if x_ND is not None:
            self.x[:N] = x_ND
        to_output = last_layer == self.layers
        x, final, logits, work = self.buffers
        longs = ctypes.c_int64 * N
        work_size = N * self.multiplications * (last_layer - first_layer) // self.layers
        with self._threads(N, self._thread_choices.for_size(work_size), work_size) as threads:
            self.weights.library.decode(
                self.network_ref, ctypes.c_long(N), longs(*batch.slots), longs(*batch.positions),
                longs(*batch.ids) if x_ND is None else None, x, ctypes.c_long(first_layer), ctypes.c_long(last_layer),
                final if to_output else None, logits if to_output else None, work, ctypes.c_int(threads),
            )  # fmt: skip
        if not to_output:
            return RunnerOutput(self.x[:N], None, None)
        return RunnerOutput(self.x[:N], self.final[:N], self.logits[:N])

    def run_steps(
        self,
        batch: TokenBatch,
        steps: Sequence[int],
        sample: ctypes.c_void_p,
        sampling: ctypes.Structure,
        uniform_NT: np.ndarray,
        with_logits: bool = False,
        with_normed: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
        """Generates steps[n] characters after row n, one row for each sequence.

        sample: the address of a C function with the interface in decode.c. sampling: its parameters. uniform_NT:
        random numbers (float64). Returns the characters (N, T), their log-probabilities in nats (N, T), the last input
        of the output layer (N, D), all logits (N, T, V), or (N, 0, V) without `with_logits`, and all inputs of the
        output layer (N, T, D), or (N, 0, D) without `with_normed`; None if logits are not finite. Raises as `run`
        does."""
        N, T = uniform_NT.shape
        self._prepare(batch, max(position + count - 1 for position, count in zip(batch.positions, steps, strict=True)))
        ids_NT, nats_NT, longs = np.zeros((N, T), np.int64), np.zeros((N, T)), ctypes.c_int64 * N
        all_logits_NTV = np.zeros((N, T if with_logits else 0, self.alphabet_size), np.float32)
        all_normed_NTD = np.zeros((N, T if with_normed else 0, self.width), np.float32)
        x, final, logits, work = self.buffers
        inputs = [longs(*values) for values in (batch.slots, batch.positions, batch.ids, steps)]
        request = CDecodeSteps(
            T, *(ctypes.addressof(array) for array in inputs), sample, ctypes.addressof(sampling),
            *(address(array) for array in (uniform_NT, ids_NT, nats_NT)), x, final, logits, work,
            address(all_logits_NTV) if with_logits else None, address(all_normed_NTD) if with_normed else None,
        )  # fmt: skip
        work_size, choice = N * self.multiplications, self._thread_choices.for_size(N * self.multiplications)
        while self._may_use_all_threads(N) and choice.is_trial_due(work_size):
            self.run(batch)  # a trial of one pass, which is repeated below, instead of T passes
        with self._threads(N, choice, sum(steps) * self.multiplications) as threads:
            is_not_finite = self.weights.library.decode_steps(
                self.network_ref, ctypes.c_long(N), ctypes.byref(request), ctypes.c_int(threads)
            )
        return None if is_not_finite else (ids_NT, nats_NT, self.final[:N], all_logits_NTV, all_normed_NTD)

    @contextmanager
    def _threads(self, rows: int, choice: ThreadChoice, multiplications: int) -> Generator[int]:
        """The number of threads for the call in the `with` block, whose time is measured."""
        if not self._may_use_all_threads(rows):
            yield 1
            return
        all_threads = choice.use_all_threads(multiplications)
        begin = time.perf_counter()
        yield self.threads if all_threads else 1
        choice.observe(all_threads, multiplications, time.perf_counter() - begin)

    def _may_use_all_threads(self, rows: int) -> bool:
        return self.threads > 1 and self.uses_all_threads(rows * self.multiplications)

    def _prepare(self, batch: TokenBatch, last_position: int) -> None:
        """Checks a batch, allocates its buffers and extends the angles to its last position."""
        check_batch(self, batch, last_position)
        if len(self.angles[0]) <= last_position:
            self.angles = rotary_angles(self.weights.settings, table_length(last_position + 1, self.context))
            self.network.cos, self.network.sin = map(address, self.angles)
        if self.allocated_rows < len(batch.ids):
            self._allocate(len(batch.ids))

    def _allocate(self, rows: int) -> None:
        s, groups = self.weights.settings, -(-self.context // LANES)
        self.allocated_rows, self.threads = rows, torch.get_num_threads()
        self.x, self.final = np.zeros((rows, s.width), np.float32), np.zeros((rows, s.width), np.float32)
        self.logits = np.zeros((rows, self.alphabet_size), np.float32)
        shared = rows * (3 * s.width + s.feed_forward)
        per_thread = rows * s.width + groups * LANES + scratch_size(rows, max(s.width, s.feed_forward))
        self.work = np.zeros(shared + self.threads * per_thread, np.float32)
        self.buffers = [address(array) for array in (self.x, self.final, self.logits, self.work)]


def _pointer_array(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))
