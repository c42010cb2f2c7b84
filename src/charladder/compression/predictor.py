"""Predictions of the next symbol of every segment, by a trained network with a KV cache.

A full cache keeps its last C - C/2 + 1 characters, so every symbol has the context that `evaluate` gives it with the
stride C/2.

Shapes: S segments, R of them that are predicted, V symbols, C context.
"""

from typing import Protocol

import numpy as np

from charladder.inference.runner import ModelRunner, TokenBatch

_ROWS_OF_A_PASS = 2048  # limits the memory of a pass over several characters of each segment


class Predictor(Protocol):
    """Predicts the next symbol of every segment from the symbols before it. Its results depend only on these."""

    def predict(self, rows: int) -> np.ndarray:
        """The logits of the next symbols of the first `rows` segments, float32 (R, V)."""
        ...

    def observe(self, ids_S: np.ndarray) -> None:
        """Reads the next symbol of every segment."""
        ...


class History:
    """The last `capacity` symbols of every segment."""

    def __init__(self, segments: int, capacity: int) -> None:
        self._ids_SN = np.zeros((segments, 2 * capacity), np.int64)
        self.capacity, self.length = capacity, 0

    def append(self, ids_S: np.ndarray) -> None:
        if self.length == self._ids_SN.shape[1]:
            self._ids_SN[:, : self.capacity] = self._ids_SN[:, self.capacity :]
            self.length = self.capacity
        self._ids_SN[:, self.length] = ids_S
        self.length += 1

    def last(self, count: int) -> np.ndarray:
        """The last `count` symbols of every segment, (S, count)."""
        return self._ids_SN[:, self.length - count : self.length]


class NetworkPredictor:
    """The predictions of a network that does not change. runner: its cache has a slot for each of the segments.

    The first symbol of a segment has equal logits.
    """

    def __init__(self, runner: ModelRunner, segments: int) -> None:
        self.runner, self.context = runner, runner.context
        self.history = History(segments, self.context)
        self.position = 0  # of the next symbol in the cache
        self._logits_SV = np.zeros((segments, runner.alphabet_size), np.float32)

    def predict(self, rows: int) -> np.ndarray:
        return self._logits_SV[:rows]

    def observe(self, ids_S: np.ndarray) -> None:
        self.history.append(ids_S)
        if self.position < self.context:
            self._logits_SV = read_symbols(self.runner, ids_S[:, None], self.position)
            self.position += 1
        else:
            self.position = self.context - max(1, self.context // 2) + 1
            self._logits_SV = read_symbols(self.runner, self.history.last(self.position), 0)


def read_symbols(runner: ModelRunner, ids_ST: np.ndarray, position: int) -> np.ndarray:
    """Reads T symbols of every segment at `position` into the cache; returns the logits after them, (S, V)."""
    segments, count = ids_ST.shape
    size = max(1, _ROWS_OF_A_PASS // count)
    logits = []
    for begin in range(0, segments, size):
        slots = np.arange(begin, min(segments, begin + size))
        batch = TokenBatch(
            slots.repeat(count).tolist(),
            np.tile(np.arange(position, position + count), len(slots)).tolist(),
            ids_ST[slots].ravel().tolist(),
        )
        output = runner.run(batch).logits_NV
        assert output is not None
        logits.append(output[count - 1 :: count].copy())
    return np.concatenate(logits)
