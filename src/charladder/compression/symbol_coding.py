"""Coding of the symbols of all segments, step by step, in chunks that each have their own words.

Encoder and decoder ask the predictor for the same predictions in the same order, so both compute the same bits.

Shapes: S segments, T steps of a chunk, R segments with a symbol at a step.
"""

from collections.abc import Callable, Iterator
from typing import IO

import numpy as np

from charladder.compression.container import read_words, write_part
from charladder.compression.entropy_coder import Decoder, Encoder
from charladder.compression.predictor import Predictor
from charladder.compression.segments import Segments
from charladder.errors import UserError

_SYMBOLS_OF_A_CHUNK = 1 << 20  # limits memory; a chunk costs some 12 bytes
_SYMBOLS_OF_A_REPORT = 1024
ReportSymbols = Callable[[int], None]
"""Is called with the number of symbols that are done."""


def encode_symbols(
    ids_file: IO[bytes],
    dtype: type[np.uint8] | type[np.uint16],
    segments: Segments,
    predictor: Predictor,
    output: IO[bytes],
    on_progress: ReportSymbols = lambda symbols: None,
) -> None:
    """Reads symbols of `dtype` from a file and writes the chunks."""
    encoder, report = Encoder(), _EverySymbols(on_progress)
    for first, last in _chunks(segments):
        ids_ST = _read_steps(ids_file, dtype, segments, first, last)
        for step, ids_S in enumerate(ids_ST.T, first):
            rows = segments.rows(step)
            encoder.encode(ids_S[:rows], predictor.predict(rows))
            if step + 1 < segments.steps:
                predictor.observe(ids_S)
            report.add(rows)
        write_part(output, encoder.take_words().tobytes())


def decode_symbols(
    source: IO[bytes],
    dtype: type[np.uint8] | type[np.uint16],
    segments: Segments,
    predictor: Predictor,
    ids_file: IO[bytes],
    name: str,
    on_progress: ReportSymbols = lambda symbols: None,
) -> None:
    """Reads the chunks and writes the symbols. Raises UserError for a damaged chunk. name: of the file, for errors."""
    report = _EverySymbols(on_progress)
    for first, last in _chunks(segments):
        decoder = Decoder(read_words(source, segments.count * (last - first), name), name)
        ids_ST = np.zeros((segments.count, last - first), np.int64)
        for step in range(first, last):
            rows = segments.rows(step)
            ids_S = ids_ST[:, step - first]
            ids_S[:rows] = decoder.decode(predictor.predict(rows))
            if step + 1 < segments.steps:
                predictor.observe(ids_S)
            report.add(rows)
        _write_steps(ids_file, dtype, segments, first, last, ids_ST)


class _EverySymbols:
    """Calls a function after every 1,024 symbols or more, because a progress bar takes longer than a step."""

    def __init__(self, on_progress: ReportSymbols) -> None:
        self._on_progress, self._done, self._next = on_progress, 0, 0

    def add(self, symbols: int) -> None:
        self._done += symbols
        if self._done >= self._next:
            self._next = self._done + _SYMBOLS_OF_A_REPORT
            self._on_progress(self._done)


def count_chunks(segments: Segments) -> int:
    return -(-segments.steps // _steps_of_a_chunk(segments))


def _chunks(segments: Segments) -> Iterator[tuple[int, int]]:
    """Yields the first step of every chunk, and the first one after it."""
    size = _steps_of_a_chunk(segments)
    for first in range(0, segments.steps, size):
        yield first, min(segments.steps, first + size)


def _steps_of_a_chunk(segments: Segments) -> int:
    return _SYMBOLS_OF_A_CHUNK // max(1, segments.count)


def _read_steps(
    file: IO[bytes], dtype: type[np.uint8] | type[np.uint16], segments: Segments, first: int, last: int
) -> np.ndarray:
    """The symbols of some steps, int64 (S, T); 0 where a segment has none."""
    ids_ST = np.zeros((segments.count, last - first), np.int64)
    size = np.dtype(dtype).itemsize
    for segment, ids_T in enumerate(ids_ST):
        count = segments.length(segment, first, last)
        file.seek((segments.begin(segment) + first) * size)
        data = file.read(count * size)
        if len(data) < count * size:
            raise UserError("the file became shorter while it was compressed", rule="compress a copy of it")
        ids_T[:count] = np.frombuffer(data, dtype)
    return ids_ST


def _write_steps(
    file: IO[bytes],
    dtype: type[np.uint8] | type[np.uint16],
    segments: Segments,
    first: int,
    last: int,
    ids_ST: np.ndarray,
) -> None:
    for segment, ids_T in enumerate(ids_ST):
        file.seek((segments.begin(segment) + first) * np.dtype(dtype).itemsize)
        file.write(ids_T[: segments.length(segment, first, last)].astype(dtype).tobytes())
