"""Multi-step decoding: several characters of many sequences in one call of C, without drafts.

The overhead of Python is paid once per call instead of once per character, and the keys and values of a few sequences
at a time stay in the processor's cache.

Shapes: N sequences, T characters of each, D width.
"""

import ctypes
from collections.abc import Sequence

import numpy as np

from charladder.generation.decoding_config import DecodingConfig
from charladder.generation.distribution import NonFiniteLogits
from charladder.generation.sampler import NativeSampler
from charladder.generation.sequence import SequenceState
from charladder.generation.speculative.drafter import Drafts
from charladder.inference.packed_runner import TILE_ROWS, PackedRunner
from charladder.inference.runner import ModelRunner, TokenBatch

MAX_STEPS = 16  # characters of each sequence in one call


def supports_multi_step(
    runner: ModelRunner, parts: Sequence[tuple[DecodingConfig, list[SequenceState], Drafts]]
) -> bool:
    """Whether `multi_step` can decode these sequences."""
    return (
        isinstance(runner, PackedRunner)
        and (runner.fits_cache or len(parts) == 1)
        and all(drafts.idle and isinstance(config.sampler, NativeSampler) for config, _, drafts in parts)
    )


def select_sequences(
    runner: ModelRunner, sequences: Sequence[SequenceState], seconds_per_pass: float, seconds: float
) -> tuple[list[SequenceState], int]:
    """Selects the sequences and the number of characters of each, so that the call takes about `seconds`.

    If the network fits the processor's cache: a few sequences, those that have waited longest, with many characters
    each, because their keys and values then stay in the cache too. Otherwise all of them, because they share the cost
    of reading the weights.
    """
    assert isinstance(runner, PackedRunner)
    selected = list(sequences)
    if runner.fits_cache:
        affordable = seconds / (MAX_STEPS * seconds_per_pass)  # sequences with MAX_STEPS characters each
        count = len(selected)
        if affordable < count:  # a multiple of TILE_ROWS, the number of rows that a matrix product computes at once
            count = max(TILE_ROWS, int(affordable) // TILE_ROWS * TILE_ROWS)
        selected = sorted(selected, key=lambda sequence: sequence.last_step)[:count]
    return selected, int(min(MAX_STEPS, seconds / (seconds_per_pass * len(selected))))


def multi_step(runner: ModelRunner, config: DecodingConfig, sequences: Sequence[SequenceState], limit: int) -> int:
    """Generates up to `limit` characters for each sequence; each must have room for one. Returns the number of
    characters of all. Raises UserError for logits that are not finite."""
    sampler = config.sampler
    assert isinstance(runner, PackedRunner) and isinstance(sampler, NativeSampler)
    steps = [min(limit, runner.context - len(s.cached_ids), s.length - len(s.ids)) for s in sequences]
    uniform_NT = np.zeros((len(sequences), max(steps)))
    for row_T, sequence, count in zip(uniform_NT, sequences, steps, strict=True):
        row_T[:count] = [sequence.uniform(offset) for offset in range(count)]
    last_ids = [sequence.last_id for sequence in sequences]
    batch = TokenBatch([s.slot for s in sequences], [len(s.cached_ids) for s in sequences], last_ids)
    sample = ctypes.cast(sampler.library.sample, ctypes.c_void_p)
    with_logits = any(sequence.num_candidates for sequence in sequences)
    with_normed = any(sequence.normed_states is not None for sequence in sequences)
    output = runner.run_steps(batch, steps, sample, sampler.sampling, uniform_NT, with_logits, with_normed)
    if output is None:
        raise NonFiniteLogits
    ids_NT, nats_NT, normed_ND, logits_NTV = output[0].tolist(), output[1].tolist(), output[2].copy(), output[3]
    normed_NTD = output[4] if with_normed else normed_ND[:, None]
    for n, (sequence, count) in enumerate(zip(sequences, steps, strict=True)):
        ids, nats = ids_NT[n][:count], nats_NT[n][:count]
        sequence.extend_cache([last_ids[n], *ids[:-1]], normed_NTD[n, :count])
        if sequence.num_candidates:
            sequence.record_candidates(logits_NTV[n, :count])
        sequence.append(ids, nats)
        sequence.passes += count
        sequence.emitted += count
    return sum(steps)
