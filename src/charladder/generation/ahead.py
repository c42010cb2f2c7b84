"""Several characters of each of many streams in one call of C, where nothing is drafted: what Python does between two
characters is done once for all of them, and keys and values of a few streams at a time stay in a cache.

Shapes: N streams, T characters at once, D width.
"""

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from charladder.errors import BadInput
from charladder.generation.sampling import BROKEN
from charladder.generation.verification import CompiledChooser, Drafts
from charladder.inference.packed import TILE, PackedRunner
from charladder.inference.runner import ModelRunner, TokenBatch

if TYPE_CHECKING:
    from charladder.generation.stream import Manner, Stream

AHEAD = 16  # characters of a stream at most that are written in one call


def able(reader: ModelRunner, parts: Sequence[tuple["Manner", list["Stream"], Drafts]]) -> bool:
    """Whether all of these can be written in this way."""
    return (
        isinstance(reader, PackedRunner)
        and (reader.fits_cache or len(parts) == 1)
        and all(drafts.resting and isinstance(manner.chooser, CompiledChooser) for manner, _, drafts in parts)
    )


def shift(reader: ModelRunner, streams: Sequence["Stream"], pace: float, pause: float) -> tuple[list["Stream"], int]:
    """Whose turn it is and how many characters of each are written, so that it takes about `pause` seconds, where each
    character takes `pace`. Of a small network those who have waited longest, as many as fit: what a cache holds of them
    serves for all their characters. Else all of them: their company is what makes each cheap."""
    assert isinstance(reader, PackedRunner)
    chosen = list(streams)
    if reader.fits_cache:
        fit = pause / (AHEAD * pace)
        count = len(chosen) if fit >= len(chosen) else max(TILE, int(fit) // TILE * TILE)
        chosen = sorted(chosen, key=lambda stream: stream.last)[:count]
    return chosen, int(min(AHEAD, pause / (pace * len(chosen))))


def write_ahead(reader: ModelRunner, manner: "Manner", streams: Sequence["Stream"], most: int) -> int:
    """Up to `most` characters for each stream, which must have room for one; how many for all of them. Raises BadInput
    for logits that are no numbers."""
    chooser = manner.chooser
    assert isinstance(reader, PackedRunner) and isinstance(chooser, CompiledChooser)
    steps = [min(most, reader.context - len(s.held), s.length - len(s.ids)) for s in streams]
    uniform_NT = np.zeros((len(streams), max(steps)))
    for row_T, stream, count in zip(uniform_NT, streams, steps, strict=True):
        row_T[:count] = [stream.uniform(ahead) for ahead in range(count)]
    chosen = [stream.chosen for stream in streams]
    rows = TokenBatch([s.number for s in streams], [len(s.held) for s in streams], chosen)
    pick = ctypes.cast(chooser.library.sample, ctypes.c_void_p)
    looking = any(stream.top for stream in streams)
    written = reader.run_steps(rows, steps, pick, chooser.sampling, uniform_NT, looking)
    if written is None:
        raise BadInput(BROKEN)
    ids_NT, nats_NT, final_ND = written[0].tolist(), written[1].tolist(), written[2].copy()
    each = zip(streams, steps, chosen, ids_NT, nats_NT, final_ND, written[3], strict=True)
    for stream, count, one, ids, nats, final_D, seen_TV in each:
        stream.held += [one, *ids[: count - 1]]
        stream.final_D = final_D
        if stream.top:
            stream.look(seen_TV[:count])
        stream.add(ids[:count], nats[:count])
        stream.passes += count
        stream.given += count
    return sum(steps)
