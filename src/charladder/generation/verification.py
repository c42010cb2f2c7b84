"""From logits to characters: one drawn a row, and drafts verified, by rejection sampling (Leviathan et al. 2023; Chen
et al. 2023) or by a race (Daliri et al. 2024); both leave exactly the model's distribution.

Written twice: in numpy, which is the reference, and in C (draw.c). Both take their uniform numbers from the caller, and
choose the same characters with the same ones.

Shapes: N rows, V symbols, S streams, M drafts of all streams.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from charladder.errors import BadInput
from charladder.generation.sampling import BROKEN, Sampling, distribution
from charladder.inference.packed import address
from charladder.kernels import native
from charladder.kernels.build import SAMPLING as SOURCES


@dataclass(frozen=True)
class Drafts:
    """What a drafter proposes for every stream of a pass: counts_S how many, ids_M which characters, one stream after
    the other. q_MV: the distributions (float64) that they were drawn from; None where each was the only one possible.
    first, x_ND: where the drafter has read all of it through the rungs up to `first`, what it got there: a row for each
    stream's chosen character and each draft. resting: it will propose nothing for the next characters either."""

    counts_S: list[int]
    ids_M: list[int]
    q_MV: np.ndarray | None
    first: int = 0
    x_ND: np.ndarray | None = None
    resting: bool = False


@dataclass(frozen=True)
class Verdict:
    """taken_S: how many drafts stand. next_S: the character after them. nats_S: log-probabilities by the model, of
    the drafts that stand and of the next, a list for each stream."""

    taken_S: list[int]
    next_S: list[int]
    nats_S: list[list[float]]


class Chooser(Protocol):
    """How characters are chosen, in one of the two ways."""

    def pick(self, logits_NV: np.ndarray, uniform_N: Sequence[float]) -> tuple[list[int], np.ndarray, list[float]]:
        """One character a row; the distributions (N, V) they were drawn from, and their nats by the model.
        Raises BadInput for logits that are no numbers."""
        ...

    def verify(self, logits_NV: np.ndarray, drafts: Drafts, uniform: Sequence[float]) -> Verdict:
        """logits_NV has a row for each draft and one more for each stream; uniform two numbers for each draft and one
        more for each stream, in that order; a race goes by the first of the two. Raises as pick does."""
        ...


def choose_chooser(sampling: Sampling) -> Chooser:
    library = native.library(torch.float32, SOURCES)
    return PlainChooser(sampling) if library is None else CompiledChooser(sampling, library)


class PlainChooser:
    """The reference."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling

    def p(self, logits_NV: np.ndarray) -> np.ndarray:
        return distribution(torch.from_numpy(logits_NV), self.sampling).numpy()

    def chosen(self, p_V: np.ndarray, uniform: float) -> int:
        return winner(p_V, uniform) if self.sampling.race else drawn(p_V, uniform)

    def pick(self, logits_NV: np.ndarray, uniform_N: Sequence[float]) -> tuple[list[int], np.ndarray, list[float]]:
        p_NV = self.p(logits_NV)
        ids = [self.chosen(p_V, uniform) for p_V, uniform in zip(p_NV, uniform_N, strict=True)]
        return ids, p_NV, [nats(row, one) for row, one in zip(logits_NV, ids, strict=True)]

    def verify(self, logits_NV: np.ndarray, drafts: Drafts, uniform: Sequence[float]) -> Verdict:
        taken_S, next_S, nats_S = [], [], []
        row = m = at = 0
        for count in drafts.counts_S:
            taken, following, said = 0, -1, []
            while following < 0:
                logits_V = logits_NV[row + taken]
                p_V = self.p(logits_V[None])[0]
                if taken == count:
                    following = self.chosen(p_V, uniform[at + 2 * count])
                    said.append(nats(logits_V, following))
                    continue
                draft = drafts.ids_M[m + taken]
                if self.sampling.race:
                    won = winner(p_V, uniform[at + 2 * taken])
                    said.append(nats(logits_V, won))
                    taken, following = (taken + 1, -1) if won == draft else (taken, won)
                    continue
                q_V = np.zeros_like(p_V) if drafts.q_MV is None else drafts.q_MV[m + taken]
                if drafts.q_MV is None:
                    q_V[draft] = 1.0
                if uniform[at + 2 * taken] * q_V[draft] < p_V[draft]:
                    said.append(nats(logits_V, draft))
                    taken += 1
                    continue
                rest_V = np.maximum(p_V - q_V, 0)
                following = drawn(rest_V if rest_V.sum() > 0 else p_V, uniform[at + 2 * taken + 1])
                said.append(nats(logits_V, following))
            taken_S.append(taken)
            next_S.append(following)
            nats_S.append(said)
            row, m, at = row + count + 1, m + count, at + 2 * count + 1
        return Verdict(taken_S, next_S, nats_S)


def drawn(p_V: np.ndarray, uniform: float) -> int:
    """The first symbol at which the sum of p passes `uniform` of the whole."""
    passed_V = np.cumsum(p_V)
    place = int(np.searchsorted(passed_V, uniform * passed_V[-1], side="right"))
    possible = np.flatnonzero(p_V)
    return min(place, int(possible[-1]))


def winner(p_V: np.ndarray, key: float) -> int:
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


def nats(logits_V: np.ndarray, symbol: int) -> float:
    exact = logits_V.astype(np.float64)
    most = exact.max()
    return float(exact[symbol] - most - np.log(np.exp(exact - most).sum()))


class CompiledSampling(ctypes.Structure):
    """As in draw.c."""

    _fields_ = [
        ("temperature", ctypes.c_double),
        ("top_p", ctypes.c_double),
        ("min_p", ctypes.c_double),
        ("top_k", ctypes.c_long),
        ("race", ctypes.c_long),
    ]


def compiled_sampling(sampling: Sampling) -> CompiledSampling:
    s = sampling
    return CompiledSampling(s.temperature, s.top_p, s.min_p, min(s.top_k, 1 << 31), s.race)


class CompiledChooser:
    """The same in one call of C."""

    def __init__(self, sampling: Sampling, library: ctypes.CDLL) -> None:
        self.library = library
        self.sampling = compiled_sampling(sampling)

    def pick(self, logits_NV: np.ndarray, uniform_N: Sequence[float]) -> tuple[list[int], np.ndarray, list[float]]:
        N, V = logits_NV.shape
        ids_N, p_NV, nats_N = (ctypes.c_int64 * N)(), np.empty((N, V)), (ctypes.c_double * N)()
        bad = self.library.sample(
            address(logits_NV), ctypes.c_long(N), ctypes.c_long(V), ctypes.byref(self.sampling),
            (ctypes.c_double * N)(*uniform_N), ids_N, address(p_NV), nats_N,
        )  # fmt: skip
        if bad:
            raise BadInput(BROKEN)
        return list(ids_N), p_NV, list(nats_N)

    def verify(self, logits_NV: np.ndarray, drafts: Drafts, uniform: Sequence[float]) -> Verdict:
        S, M, V = len(drafts.counts_S), len(drafts.ids_M), logits_NV.shape[1]
        q_MV = None if drafts.q_MV is None else np.ascontiguousarray(drafts.q_MV, np.float64)
        fits = sum(drafts.counts_S) == M and len(logits_NV) == len(uniform) - M == M + S
        if not fits or (q_MV is not None and q_MV.shape != (M, V)):
            raise ValueError(
                f"{M} drafts do not fit {drafts.counts_S}, {logits_NV.shape} logits or their distributions"
            )
        taken_S, next_S, nats_N = (ctypes.c_int64 * S)(), (ctypes.c_int64 * S)(), (ctypes.c_double * (M + S))()
        bad = self.library.verify_drafts(
            address(logits_NV), ctypes.c_long(S), ctypes.c_long(V), ctypes.byref(self.sampling),
            (ctypes.c_int64 * S)(*drafts.counts_S), (ctypes.c_int64 * M)(*drafts.ids_M),
            None if q_MV is None else address(q_MV), (ctypes.c_double * len(uniform))(*uniform),
            taken_S, next_S, nats_N,
        )  # fmt: skip
        if bad:
            raise BadInput(BROKEN)
        nats_S, said, row = [], list(nats_N), 0
        for count, taken in zip(drafts.counts_S, taken_S, strict=True):
            nats_S.append(said[row : row + taken + 1])
            row += count + 1
        return Verdict(list(taken_S), list(next_S), nats_S)
