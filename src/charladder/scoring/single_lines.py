"""Scores of lines, each predicted from nothing but itself.

A line is read after a newline (a space, if the alphabet has no newline), as if a text began with it. Its score is that
of `evaluate` on a text of the newline and the line, without the newline's own bits. Windows of many lines are computed
together: they are sorted by length and padded at their end, where no earlier position attends to.

Shapes: B windows, T inputs of the longest, V symbols, M symbols of a line.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from charladder.evaluation.sliding_window import (
    Predictor,
    Window,
    cross_entropy_nats,
    entropy_bits,
    ranks,
    windows_to_score,
)
from charladder.scoring.lines import TextLine
from charladder.scoring.scored_line import NEWLINE, ScoredLine, check_finite
from charladder.text import Alphabet

_MAX_CHARACTERS, _MAX_LOGITS = 1 << 14, 1 << 22  # of a batch: its activations and its logits take memory


@dataclass(frozen=True)
class LineScorer:
    """Scores lines with a network. start_ids: what is read before a line; empty, or one symbol. unknown: the policy for
    letters outside the alphabet."""

    predict: Predictor
    alphabet: Alphabet
    context: int
    stride: int
    start_ids: Sequence[int] = ()
    unknown: str = "error"
    with_entropy: bool = False
    device: torch.device | str = "cpu"

    def score(
        self, lines: Sequence[TextLine], on_progress: Callable[[int], None] = lambda characters: None
    ) -> list[ScoredLine]:
        """The scores of lines, in their order. on_progress: called with the number of symbols that were scored since
        its last call. Raises UserError for a letter outside the alphabet, and for scores that are not finite."""
        scored = [self._unscored(line) for line in lines]
        windows = ((number, window) for number, line in enumerate(scored) for window in self._windows(len(line.ids_M)))
        for batch in self._batches(windows):
            on_progress(self._score_batch(batch, scored))
        check_finite(scored)
        return scored

    def _unscored(self, line: TextLine) -> ScoredLine:
        """A line whose symbols count as drawn uniformly, which stays so for one that has nothing before it."""
        has_end = line.has_end and (not self.alphabet.letters or NEWLINE.decode() in self.alphabet.letters)
        data = line.data if has_end else line.data.removesuffix(NEWLINE) if line.has_end else line.data
        ids_M = self.alphabet.encode(data, f"{line.file}, line {line.line}", self.unknown)
        uniform = math.log2(self.alphabet.size)
        bits_M, ranks_M, seen_M = np.full(len(ids_M), uniform), np.zeros(len(ids_M), np.int32), np.arange(len(ids_M))
        entropy_M = np.full(len(ids_M), uniform) if self.with_entropy else None
        return ScoredLine(line.file, line.line, 0, ids_M, has_end, bits_M, ranks_M, seen_M, entropy_M)

    def _windows(self, length: int) -> Iterator[Window]:
        """The windows over what is read before a line and the line of this length."""
        before = len(self.start_ids)
        return windows_to_score((before, before + length), self.context, self.stride)

    def _batches(self, windows: Iterator[tuple[int, Window]]) -> Iterator[list[tuple[int, Window]]]:
        """Batches of windows of similar length whose scored positions begin at the same input."""

        def key(numbered: tuple[int, Window]) -> tuple[int, int]:
            inputs, scored = numbered[1].shape
            return inputs - scored, inputs

        max_characters = max(1, min(_MAX_CHARACTERS, _MAX_LOGITS // self.alphabet.size))
        for _, group in groupby(sorted(windows, key=key), key=lambda numbered: key(numbered)[0]):
            batch: list[tuple[int, Window]] = []
            for numbered in group:
                if batch and (len(batch) + 1) * numbered[1].shape[0] > max_characters:
                    yield batch
                    batch = []
                batch.append(numbered)
            yield batch

    def _score_batch(self, batch: list[tuple[int, Window]], scored: list[ScoredLine]) -> int:
        """Writes the scores of a batch into `scored`; returns the number of scored symbols."""
        start_ids, (longest, count) = np.array(self.start_ids, np.int64), batch[-1][1].shape
        before = len(start_ids)
        ids_BT = np.zeros((len(batch), longest + 1), np.int64)
        for row, (number, window) in enumerate(batch):
            begin = max(0, window.start - before)  # in the line
            part = scored[number].ids_M[begin : window.end - before]
            ids_BT[row, : window.end - window.start] = part if window.start else np.concatenate((start_ids, part))
        window_BT = torch.from_numpy(ids_BT).to(self.device)
        targets_BT = window_BT[:, -count:]
        with torch.inference_mode():
            logits_BTV = self.predict(window_BT[:, :-1], count)
            bits_BT = cross_entropy_nats(logits_BTV, targets_BT).cpu().double().numpy() / math.log(2)
            ranks_BT = ranks(logits_BTV, targets_BT).cpu().numpy()
            entropy_BT = entropy_bits(logits_BTV).cpu().numpy() if self.with_entropy else None
        for row, (number, window) in enumerate(batch):
            line, kept = scored[number], window.end - window.begin
            place = slice(window.begin - before, window.end - before)
            line.bits_M[place], line.ranks_M[place] = bits_BT[row, :kept], ranks_BT[row, :kept]
            line.seen_M[place] = np.arange(longest - count, longest - count + kept) + 1
            if line.entropy_M is not None and entropy_BT is not None:
                line.entropy_M[place] = entropy_BT[row, :kept]
        return sum(window.end - window.begin for _, window in batch)
