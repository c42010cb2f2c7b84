"""Samplers: sample characters from logits.

There is a reference implementation in NumPy and one in C (sampling.c). With the same uniform random numbers they choose
the same characters.

Shapes: N rows, V symbols.
"""

import ctypes
from collections.abc import Sequence

import numpy as np
import torch

from charladder.generation.distribution import NonFiniteLogits, SamplingParams, distribution
from charladder.kernels import native
from charladder.kernels.build import SAMPLING as SOURCES
from charladder.kernels.native import address


class ReferenceSampler:
    """The reference implementation."""

    def __init__(self, sampling: SamplingParams) -> None:
        self.sampling = sampling

    def probabilities(self, logits_NV: np.ndarray) -> np.ndarray:
        return distribution(torch.from_numpy(logits_NV), self.sampling).numpy()

    def sample_one(self, p_V: np.ndarray, uniform: float) -> int:
        return coupled_sample(p_V, uniform) if self.sampling.coupled else inverse_cdf_sample(p_V, uniform)

    def sample(self, logits_NV: np.ndarray, uniform_N: Sequence[float]) -> tuple[list[int], np.ndarray, list[float]]:
        """Samples a character for each row. Returns the characters, the distributions (N, V) from which they were
        sampled, and their log-probabilities by the model in nats. Raises NonFiniteLogits."""
        p_NV = self.probabilities(logits_NV)
        ids = [self.sample_one(p_V, uniform) for p_V, uniform in zip(p_NV, uniform_N, strict=True)]
        return ids, p_NV, [log_probability(row, symbol) for row, symbol in zip(logits_NV, ids, strict=True)]


def inverse_cdf_sample(p_V: np.ndarray, uniform: float) -> int:
    """The first symbol at which the cumulative probability exceeds `uniform` times the total."""
    cumulative_V = np.cumsum(p_V)
    symbol = int(np.searchsorted(cumulative_V, uniform * cumulative_V[-1], side="right"))
    return min(symbol, int(np.flatnonzero(p_V)[-1]))


def coupled_sample(p_V: np.ndarray, key: float) -> int:
    """The symbol with the smallest exponential random number of rate p, which depends only on `key` and the symbol."""
    symbols = np.flatnonzero(p_V)
    seed = np.frombuffer(np.float64(key).tobytes(), np.uint64)
    with np.errstate(over="ignore"):
        x = seed + (symbols.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    exponentials = -np.log(((x >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53) / p_V[symbols]
    return int(symbols[np.argmin(exponentials)])


def log_probability(logits_V: np.ndarray, symbol: int) -> float:
    logits_V = logits_V.astype(np.float64)
    highest = logits_V.max()
    return float(logits_V[symbol] - highest - np.log(np.exp(logits_V - highest).sum()))


class CSamplingParams(ctypes.Structure):
    """The struct SamplingParams in sampling.h."""

    _fields_ = [
        ("temperature", ctypes.c_double),
        ("top_p", ctypes.c_double),
        ("min_p", ctypes.c_double),
        ("top_k", ctypes.c_long),
        ("coupled", ctypes.c_long),
    ]


def to_c(sampling: SamplingParams) -> CSamplingParams:
    s = sampling
    return CSamplingParams(s.temperature, s.top_p, s.min_p, min(s.top_k, 1 << 31), s.coupled)


class NativeSampler:
    """The implementation in C, with the same results."""

    def __init__(self, sampling: SamplingParams, library: ctypes.CDLL) -> None:
        self.library = library
        self.sampling = to_c(sampling)

    def sample(self, logits_NV: np.ndarray, uniform_N: Sequence[float]) -> tuple[list[int], np.ndarray, list[float]]:
        N, V = logits_NV.shape
        ids_N, p_NV, nats_N = (ctypes.c_int64 * N)(), np.empty((N, V)), (ctypes.c_double * N)()
        is_not_finite = self.library.sample(
            address(logits_NV), ctypes.c_long(N), ctypes.c_long(V), ctypes.byref(self.sampling),
            (ctypes.c_double * N)(*uniform_N), ids_N, address(p_NV), nats_N,
        )  # fmt: skip
        if is_not_finite:
            raise NonFiniteLogits
        return list(ids_N), p_NV, list(nats_N)


Sampler = ReferenceSampler | NativeSampler


def make_sampler(sampling: SamplingParams) -> Sampler:
    library = native.library(torch.float32, SOURCES)
    return ReferenceSampler(sampling) if library is None else NativeSampler(sampling, library)
