"""From logits to characters: samples a character for each row, and verifies drafts by rejection sampling (Leviathan et
al. 2023; Chen et al. 2023) or by coupled sampling (Daliri et al. 2024). Both keep exactly the model's distribution.

There are two implementations: NumPy, which is the reference, and C (sampling.c). The caller gives the uniform random
numbers; with the same ones both choose the same characters.

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
    """What a drafter proposes for every sequence of a pass.

    counts_S: how many characters for each. ids_M: the characters, one sequence after the other. q_MV: the distributions
    (float64) from which they were drawn; None where each was certain. first_layer, x_ND: where the drafter has run the
    layers up to `first_layer` on all of them, the hidden states above it: a row for each sequence's last character and
    for each draft. idle: the drafter will not propose anything for the next characters either.
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
    """How characters are chosen, in one of the two ways."""

    def sample(self, logits_NV: np.ndarray, uniform_N: Sequence[float]) -> tuple[list[int], np.ndarray, list[float]]:
        """One character a row; the distributions (N, V) they were drawn from, and their nats by the model.
        Raises UserError for logits that are no numbers."""
        ...

    def verify(self, logits_NV: np.ndarray, drafts: Drafts, uniform: Sequence[float]) -> VerificationResult:
        """logits_NV has a row for each draft and one more for each sequence; uniform two numbers for each draft and one
        more for each sequence, in that order; with coupling, the first of the two is used. Raises as sample does."""
        ...


def make_sampler(sampling: SamplingParams) -> Sampler:
    library = native.library(torch.float32, SOURCES)
    return ReferenceSampler(sampling) if library is None else NativeSampler(sampling, library)


class ReferenceSampler:
    """The reference."""

    def __init__(self, sampling: SamplingParams) -> None:
        self.sampling = sampling

    def probabilities(self, logits_NV: np.ndarray) -> np.ndarray:
        return distribution(torch.from_numpy(logits_NV), self.sampling).numpy()

    def sample_one(self, p_V: np.ndarray, uniform: float) -> int:
        return coupled_sample(p_V, uniform) if self.sampling.coupled else inverse_cdf_sample(p_V, uniform)

    def sample(self, logits_NV: np.ndarray, uniform_N: Sequence[float]) -> tuple[list[int], np.ndarray, list[float]]:
        p_NV = self.probabilities(logits_NV)
        ids = [self.sample_one(p_V, uniform) for p_V, uniform in zip(p_NV, uniform_N, strict=True)]
        return ids, p_NV, [log_probability(row, one) for row, one in zip(logits_NV, ids, strict=True)]

    def verify(self, logits_NV: np.ndarray, drafts: Drafts, uniform: Sequence[float]) -> VerificationResult:
        accepted_S, next_S, nats_S = [], [], []
        row = m = at = 0
        for count in drafts.counts_S:
            taken, next_id, said = 0, -1, []
            while next_id < 0:
                logits_V = logits_NV[row + taken]
                p_V = self.probabilities(logits_V[None])[0]
                if taken == count:
                    next_id = self.sample_one(p_V, uniform[at + 2 * count])
                    said.append(log_probability(logits_V, next_id))
                    continue
                draft = drafts.ids_M[m + taken]
                if self.sampling.coupled:
                    won = coupled_sample(p_V, uniform[at + 2 * taken])
                    said.append(log_probability(logits_V, won))
                    taken, next_id = (taken + 1, -1) if won == draft else (taken, won)
                    continue
                q_V = np.zeros_like(p_V) if drafts.q_MV is None else drafts.q_MV[m + taken]
                if drafts.q_MV is None:
                    q_V[draft] = 1.0
                if uniform[at + 2 * taken] * q_V[draft] < p_V[draft]:
                    said.append(log_probability(logits_V, draft))
                    taken += 1
                    continue
                rest_V = np.maximum(p_V - q_V, 0)
                next_id = inverse_cdf_sample(rest_V if rest_V.sum() > 0 else p_V, uniform[at + 2 * taken + 1])
                said.append(log_probability(logits_V, next_id))
            accepted_S.append(taken)
            next_S.append(next_id)
            nats_S.append(said)
            row, m, at = row + count + 1, m + count, at + 2 * count + 1
        return VerificationResult(accepted_S, next_S, nats_S)


def inverse_cdf_sample(p_V: np.ndarray, uniform: float) -> int:
    """The first symbol at which the sum of p passes `uniform` of the whole."""
    passed_V = np.cumsum(p_V)
    place = int(np.searchsorted(passed_V, uniform * passed_V[-1], side="right"))
    possible = np.flatnonzero(p_V)
    return min(place, int(possible[-1]))


def coupled_sample(p_V: np.ndarray, key: float) -> int:
    """Every symbol is given an exponential time of rate p, made from `key` and the symbol alone; the first one wins."""
    symbols = np.flatnonzero(p_V)
    start = np.frombuffer(np.float64(key).tobytes(), np.uint64)
    with np.errstate(over="ignore"):
        x = start + (symbols.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    times = -np.log(((x >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53) / p_V[symbols]
    return int(symbols[np.argmin(times)])


def log_probability(logits_V: np.ndarray, symbol: int) -> float:
    exact = logits_V.astype(np.float64)
    most = exact.max()
    return float(exact[symbol] - most - np.log(np.exp(exact - most).sum()))


class CSamplingParams(ctypes.Structure):
    """As in sampling.c."""

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
    """The same in one call of C."""

    def __init__(self, sampling: SamplingParams, library: ctypes.CDLL) -> None:
        self.library = library
        self.sampling = to_c(sampling)

    def sample(self, logits_NV: np.ndarray, uniform_N: Sequence[float]) -> tuple[list[int], np.ndarray, list[float]]:
        N, V = logits_NV.shape
        ids_N, p_NV, nats_N = (ctypes.c_int64 * N)(), np.empty((N, V)), (ctypes.c_double * N)()
        bad = self.library.sample(
            address(logits_NV), ctypes.c_long(N), ctypes.c_long(V), ctypes.byref(self.sampling),
            (ctypes.c_double * N)(*uniform_N), ids_N, address(p_NV), nats_N,
        )  # fmt: skip
        if bad:
            raise UserError(NOT_FINITE)
        return list(ids_N), p_NV, list(nats_N)

    def verify(self, logits_NV: np.ndarray, drafts: Drafts, uniform: Sequence[float]) -> VerificationResult:
        S, M, V = len(drafts.counts_S), len(drafts.ids_M), logits_NV.shape[1]
        q_MV = None if drafts.q_MV is None else np.ascontiguousarray(drafts.q_MV, np.float64)
        fits = sum(drafts.counts_S) == M and len(logits_NV) == len(uniform) - M == M + S
        if not fits or (q_MV is not None and q_MV.shape != (M, V)):
            raise ValueError(
                f"{M} drafts do not fit {drafts.counts_S}, {logits_NV.shape} logits or their distributions"
            )
        accepted_S, next_S, nats_N = (ctypes.c_int64 * S)(), (ctypes.c_int64 * S)(), (ctypes.c_double * (M + S))()
        bad = self.library.verify_drafts(
            address(logits_NV), ctypes.c_long(S), ctypes.c_long(V), ctypes.byref(self.sampling),
            (ctypes.c_int64 * S)(*drafts.counts_S), (ctypes.c_int64 * M)(*drafts.ids_M),
            None if q_MV is None else address(q_MV), (ctypes.c_double * len(uniform))(*uniform),
            accepted_S, next_S, nats_N,
        )  # fmt: skip
        if bad:
            raise UserError(NOT_FINITE)
        nats_S, said, row = [], list(nats_N), 0
        for count, taken in zip(drafts.counts_S, accepted_S, strict=True):
            nats_S.append(said[row : row + taken + 1])
            row += count + 1
        return VerificationResult(list(accepted_S), list(next_S), nats_S)
