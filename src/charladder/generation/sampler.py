"""Samplers: sample characters from logits, and verify drafts by rejection sampling (Leviathan et al. 2023; Chen et al.
2023) or coupled sampling (Daliri et al. 2024). Both keep exactly the distribution of the model.

There is a reference implementation in NumPy and one in C (sampling.c). With the same uniform random numbers they choose
the same characters.

Shapes: N rows, V symbols, S sequences, M drafts of all sequences.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from charladder.errors import UserError
from charladder.generation.distribution import NOT_FINITE, SamplingParams, distribution
from charladder.inference.packed_cpu import address
from charladder.kernels import native
from charladder.kernels.build import SAMPLING as SOURCES


@dataclass(frozen=True)
class Drafts:
    """The proposals of a drafter for every sequence of a pass.

    counts_S: the number of characters for each. ids_M: the characters, one sequence after the other. q_MV: the
    distributions (float64) from which they were sampled; None if they were chosen deterministically. first_layer, x_ND:
    if the drafter has run the layers up to `first_layer`, their output, with a row for each sequence's last character
    and for each draft. idle: the drafter will not propose anything for the next characters either.
    """

    counts_S: list[int]
    ids_M: list[int]
    q_MV: np.ndarray | None
    first_layer: int = 0
    x_ND: np.ndarray | None = None
    idle: bool = False


@dataclass(frozen=True)
class VerificationResult:
    """accepted_S: how many drafts are accepted. next_S: the character after them. nats_S: log-probabilities by the
    model of the accepted drafts and of the next character, a list for each sequence."""

    accepted_S: list[int]
    next_S: list[int]
    nats_S: list[list[float]]


class Sampler(Protocol):
    """Samples characters and verifies drafts."""

    def sample(self, logits_NV: np.ndarray, uniform_N: Sequence[float]) -> tuple[list[int], np.ndarray, list[float]]:
        """Samples a character for each row. Returns the characters, the distributions (N, V) from which they were
        sampled, and their log-probabilities by the model in nats. Raises UserError for logits that are not finite."""
        ...

    def verify(self, logits_NV: np.ndarray, drafts: Drafts, uniform: Sequence[float]) -> VerificationResult:
        """logits_NV: a row for each draft and one more for each sequence. uniform: for each sequence two numbers for
        each draft and one more; coupled sampling does not use the second of two. Raises as `sample` does."""
        ...


def make_sampler(sampling: SamplingParams) -> Sampler:
    library = native.library(torch.float32, SOURCES)
    return ReferenceSampler(sampling) if library is None else NativeSampler(sampling, library)


class ReferenceSampler:
    """The reference implementation."""

    def __init__(self, sampling: SamplingParams) -> None:
        self.sampling = sampling

    def probabilities(self, logits_NV: np.ndarray) -> np.ndarray:
        return distribution(torch.from_numpy(logits_NV), self.sampling).numpy()

    def sample_one(self, p_V: np.ndarray, uniform: float) -> int:
        return coupled_sample(p_V, uniform) if self.sampling.coupled else inverse_cdf_sample(p_V, uniform)

    def sample(self, logits_NV: np.ndarray, uniform_N: Sequence[float]) -> tuple[list[int], np.ndarray, list[float]]:
        p_NV = self.probabilities(logits_NV)
        ids = [self.sample_one(p_V, uniform) for p_V, uniform in zip(p_NV, uniform_N, strict=True)]
        return ids, p_NV, [log_probability(row, symbol) for row, symbol in zip(logits_NV, ids, strict=True)]

    def verify(self, logits_NV: np.ndarray, drafts: Drafts, uniform: Sequence[float]) -> VerificationResult:
        accepted_S, next_S, nats_S = [], [], []
        row = m = u = 0
        for count in drafts.counts_S:
            accepted, next_id, nats = 0, -1, []
            while next_id < 0:
                logits_V = logits_NV[row + accepted]
                p_V = self.probabilities(logits_V[None])[0]
                if accepted == count:
                    next_id = self.sample_one(p_V, uniform[u + 2 * count])
                    nats.append(log_probability(logits_V, next_id))
                    continue
                draft = drafts.ids_M[m + accepted]
                if self.sampling.coupled:
                    chosen = coupled_sample(p_V, uniform[u + 2 * accepted])
                    nats.append(log_probability(logits_V, chosen))
                    accepted, next_id = (accepted + 1, -1) if chosen == draft else (accepted, chosen)
                    continue
                q_V = np.zeros_like(p_V) if drafts.q_MV is None else drafts.q_MV[m + accepted]
                if drafts.q_MV is None:
                    q_V[draft] = 1.0
                if uniform[u + 2 * accepted] * q_V[draft] < p_V[draft]:
                    nats.append(log_probability(logits_V, draft))
                    accepted += 1
                    continue
                residual_V = np.maximum(p_V - q_V, 0)
                next_id = inverse_cdf_sample(residual_V if residual_V.sum() > 0 else p_V, uniform[u + 2 * accepted + 1])
                nats.append(log_probability(logits_V, next_id))
            accepted_S.append(accepted)
            next_S.append(next_id)
            nats_S.append(nats)
            row, m, u = row + count + 1, m + count, u + 2 * count + 1
        return VerificationResult(accepted_S, next_S, nats_S)


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
    """The implementation in C."""

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
            raise UserError(NOT_FINITE)
        return list(ids_N), p_NV, list(nats_N)

    def verify(self, logits_NV: np.ndarray, drafts: Drafts, uniform: Sequence[float]) -> VerificationResult:
        S, M, V = len(drafts.counts_S), len(drafts.ids_M), logits_NV.shape[1]
        q_MV = None if drafts.q_MV is None else np.ascontiguousarray(drafts.q_MV, np.float64)
        is_consistent = sum(drafts.counts_S) == M and len(logits_NV) == len(uniform) - M == M + S
        if not is_consistent or (q_MV is not None and q_MV.shape != (M, V)):
            raise ValueError(f"inconsistent sizes: {M} drafts, counts {drafts.counts_S}, logits {logits_NV.shape}")
        accepted_S, next_S, nats_N = (ctypes.c_int64 * S)(), (ctypes.c_int64 * S)(), (ctypes.c_double * (M + S))()
        is_not_finite = self.library.verify_drafts(
            address(logits_NV), ctypes.c_long(S), ctypes.c_long(V), ctypes.byref(self.sampling),
            (ctypes.c_int64 * S)(*drafts.counts_S), (ctypes.c_int64 * M)(*drafts.ids_M),
            None if q_MV is None else address(q_MV), (ctypes.c_double * len(uniform))(*uniform),
            accepted_S, next_S, nats_N,
        )  # fmt: skip
        if is_not_finite:
            raise UserError(NOT_FINITE)
        nats_S, nats, row = [], list(nats_N), 0
        for count, accepted in zip(drafts.counts_S, accepted_S, strict=True):
            nats_S.append(nats[row : row + accepted + 1])
            row += count + 1
        return VerificationResult(list(accepted_S), list(next_S), nats_S)
