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
from charladder.generation.verification import CompiledChooser
from charladder.model.packed import PackedReader
from charladder.model.reading import Reader, Rows

if TYPE_CHECKING:
    from charladder.generation.stream import Manner, Stream


def write_ahead(reader: Reader, manner: "Manner", streams: Sequence["Stream"], most: int) -> int:
    """Up to `most` characters for each stream; how many for all of them, 0 where it cannot be done in this way. Each
    must have room for one. Raises BadInput for logits that are no numbers."""
    chooser = manner.chooser
    if most < 2 or not isinstance(reader, PackedReader) or not isinstance(chooser, CompiledChooser):
        return 0
    if any(stream.top for stream in streams):  # who looks at the logits of each
        return 0
    steps = [min(most, reader.context - len(s.held), s.length - len(s.ids)) for s in streams]
    uniform_NT = np.zeros((len(streams), max(steps)))
    for row_T, stream, count in zip(uniform_NT, streams, steps, strict=True):
        row_T[:count] = [stream.uniform(ahead) for ahead in range(count)]
    chosen = [stream.chosen for stream in streams]
    rows = Rows([s.number for s in streams], [len(s.held) for s in streams], chosen)
    pick = ctypes.cast(chooser.library.pick, ctypes.c_void_p)
    written = reader.write(rows, steps, pick, chooser.sampling, uniform_NT)
    if written is None:
        raise BadInput(BROKEN)
    ids_NT, nats_NT, final_ND = written[0].tolist(), written[1].tolist(), written[2].copy()
    for stream, count, one, ids, nats, final_D in zip(streams, steps, chosen, ids_NT, nats_NT, final_ND, strict=True):
        stream.held += [one, *ids[: count - 1]]
        stream.final_D = final_D
        stream.add(ids[:count], nats[:count])
        stream.passes += count
        stream.given += count
    return sum(steps)
