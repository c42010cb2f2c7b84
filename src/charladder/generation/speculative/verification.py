"""Verification of drafts by rejection sampling (Leviathan et al. 2023; Chen et al. 2023) or coupled sampling (Daliri et
al. 2024). Both keep exactly the distribution of the model.

Shapes: N rows, V symbols, S sequences, M drafts of all sequences.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from charladder.generation.distribution import NonFiniteLogits
from charladder.generation.sampler import (
    NativeSampler,
    ReferenceSampler,
    Sampler,
    coupled_sample,
    inverse_cdf_sample,
    log_probability,
)
from charladder.generation.speculative.drafter import Drafts
from charladder.kernels.native import address


@dataclass(frozen=True)
class VerificationResult:
    """accepted_S: how many drafts are accepted. next_S: the character after them. nats_S: log-probabilities by the
    model of the accepted drafts and of the next character, a list for each sequence."""

    accepted_S: list[int]
    next_S: list[int]
    nats_S: list[list[float]]


def verify_drafts(
    sampler: Sampler, logits_NV: np.ndarray, drafts: Drafts, uniform: Sequence[float]
) -> VerificationResult:
    """Accepts drafts up to the first that is rejected, and samples the character after them.

    logits_NV: a row for each draft and one more for each sequence. uniform: for each sequence two numbers for each
    draft and one more; coupled sampling does not use the second of two. Raises NonFiniteLogits.
    """
    if isinstance(sampler, NativeSampler):
        return _verify_native(sampler, logits_NV, drafts, uniform)
    return _verify_reference(sampler, logits_NV, drafts, uniform)


def _verify_reference(
    sampler: ReferenceSampler, logits_NV: np.ndarray, drafts: Drafts, uniform: Sequence[float]
) -> VerificationResult:
    accepted_S, next_S, nats_S = [], [], []
    row = m = u = 0
    for count in drafts.counts_S:
        accepted, next_id, nats = 0, -1, []
        while next_id < 0:
            logits_V = logits_NV[row + accepted]
            p_V = sampler.probabilities(logits_V[None])[0]
            if accepted == count:
                next_id = sampler.sample_one(p_V, uniform[u + 2 * count])
                nats.append(log_probability(logits_V, next_id))
                continue
            draft = drafts.ids_M[m + accepted]
            if sampler.sampling.coupled:
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


def _verify_native(
    sampler: NativeSampler, logits_NV: np.ndarray, drafts: Drafts, uniform: Sequence[float]
) -> VerificationResult:
    S, M, V = len(drafts.counts_S), len(drafts.ids_M), logits_NV.shape[1]
    q_MV = None if drafts.q_MV is None else np.ascontiguousarray(drafts.q_MV, np.float64)
    is_consistent = sum(drafts.counts_S) == M and len(logits_NV) == len(uniform) - M == M + S
    if not is_consistent or (q_MV is not None and q_MV.shape != (M, V)):
        raise ValueError(f"inconsistent sizes: {M} drafts, counts {drafts.counts_S}, logits {logits_NV.shape}")
    accepted_S, next_S, nats_N = (ctypes.c_int64 * S)(), (ctypes.c_int64 * S)(), (ctypes.c_double * (M + S))()
    is_not_finite = sampler.library.verify_drafts(
        address(logits_NV), ctypes.c_long(S), ctypes.c_long(V), ctypes.byref(sampler.sampling),
        (ctypes.c_int64 * S)(*drafts.counts_S), (ctypes.c_int64 * M)(*drafts.ids_M),
        None if q_MV is None else address(q_MV), (ctypes.c_double * len(uniform))(*uniform),
        accepted_S, next_S, nats_N,
    )  # fmt: skip
    if is_not_finite:
        raise NonFiniteLogits
    nats_S, nats, row = [], list(nats_N), 0
    for count, accepted in zip(drafts.counts_S, accepted_S, strict=True):
        nats_S.append(nats[row : row + accepted + 1])
        row += count + 1
    return VerificationResult(list(accepted_S), list(next_S), nats_S)
