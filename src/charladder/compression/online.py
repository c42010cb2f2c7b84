"""A network that learns while it codes: it starts from a fixed seed, so a decoder needs no network.

After every U symbols of each segment, the network takes one training step on the last C + 1 symbols of every segment,
which the decoder has too. Then its cache is filled again with the last C - U symbols.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch

from charladder.compression.predictor import History, read_symbols
from charladder.compression.segments import Segments
from charladder.inference.batched import BatchedRunner
from charladder.model import ModelConfig, Transformer
from charladder.objective import LanguageModelObjective, ObjectiveConfig
from charladder.text import Windows
from charladder.training import Trainer, TrainingConfig

ONLINE_CONTEXT = 64
ONLINE_CHARACTERS_OF_A_SEGMENT = 1 << 13
_SYMBOLS_OF_AN_UPDATE = 32
_SEED = 1
_MODEL = ModelConfig(
    layers=3, width=128, attention_heads=4, feed_forward=256, context=ONLINE_CONTEXT, ngrams=6, ngram_rows=1 << 15
)
_OBJECTIVE = ObjectiveConfig(intermediate=False, targets=1)


class LastWindows:
    """Windows that are the last symbols of every segment, instead of samples of a text."""

    def __init__(self, history: History, length: int) -> None:
        self._history, self.length = history, length

    def take(self, batch: int, pieces: int = 1, rank: int = 0, ranks: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """See Windows.take. There is a window for every segment, whatever `batch` is; near the beginning of the text
        it is shorter than `length`."""
        windows_BT = self._history.last(min(self.length + 1, self._history.length)).copy()
        return windows_BT, np.arange(len(windows_BT))


class OnlinePredictor:
    """The predictions of a network that is trained on the symbols that it has read."""

    def __init__(self, segments: Segments, alphabet: int) -> None:
        count = max(1, segments.count)
        self.history = History(count, ONLINE_CONTEXT + 1)
        settings = TrainingConfig(
            batch=count, learning_rate=0.02, adam_rate=0.01, ngram_rate=0.2, momentum=0.9,
            steps=max(1, segments.steps // _SYMBOLS_OF_AN_UPDATE), warmup=0.0, decay="fixed", seed=_SEED,
            device="cpu", precision="float32", compile="never", diagnose_every=0, skips=100, spike=0.0,
        )  # fmt: skip
        objective = LanguageModelObjective(_OBJECTIVE, _MODEL, alphabet, _SEED)
        windows = cast(Windows, LastWindows(self.history, ONLINE_CONTEXT))
        self.trainer = Trainer(Transformer(_MODEL, alphabet, _SEED), objective, windows, settings)
        self.runner = BatchedRunner(self.trainer.network, count, ONLINE_CONTEXT)
        self.position = self.symbols = 0  # in the cache, and of every segment
        self._logits_SV = np.zeros((count, alphabet), np.float32)

    def predict(self, rows: int) -> np.ndarray:
        return self._logits_SV[:rows]

    def observe(self, ids_S: np.ndarray) -> None:
        self.history.append(ids_S)
        self.symbols += 1
        if self.symbols % _SYMBOLS_OF_AN_UPDATE:
            self._logits_SV = read_symbols(self.runner, ids_S[:, None], self.position)
            self.position += 1
            return
        with _deterministic_algorithms():
            self.trainer.step()
        self.position = min(self.symbols, ONLINE_CONTEXT - _SYMBOLS_OF_AN_UPDATE)
        self._logits_SV = read_symbols(self.runner, self.history.last(self.position), 0)


@contextmanager
def _deterministic_algorithms() -> Iterator[None]:
    """Operations of torch with equal results in every process, or an error where there is none."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
