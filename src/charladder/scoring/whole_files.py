"""Scores of the lines of whole files: each symbol is predicted from the text before it in its file, as in `evaluate`.

Shapes: N symbols of all files, M successive symbols, F files.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from charladder.errors import UserError
from charladder.evaluation import ScoredCharacters, evaluate
from charladder.evaluation.sliding_window import Predictor
from charladder.scoring.lines import MAX_LINE_BYTES
from charladder.scoring.scored_line import NEWLINE, LineConsumer, ScoredLine, check_finite
from charladder.text import Corpus


def score_files(
    predict: Predictor,
    corpus: Corpus,
    context: int,
    stride: int,
    device: torch.device | str,
    consume: LineConsumer,
    with_entropy: bool = False,
    allow_pieces: bool = False,
    on_progress: Callable[[int, float], None] = lambda characters, bits: None,
) -> None:
    """Passes the scored lines of all files to `consume`.

    A line of more than 4,194,304 symbols raises UserError; with `allow_pieces` it is passed in pieces. Raises UserError
    for scores that are not finite, and as `evaluate`.
    """
    cutter = _LineCutter(corpus, consume, with_entropy, allow_pieces)
    evaluate(
        predict, corpus.ids_N, (0, len(corpus.ids_N)), context, stride, corpus.alphabet.size, device,
        on_progress=on_progress, ends_F=corpus.ends_F, on_scored=cutter.add, with_entropy=with_entropy,
    )  # fmt: skip
    cutter.finish()


@dataclass(frozen=True)
class _Scores:
    """Scores of successive symbols."""

    bits_M: np.ndarray
    ranks_M: np.ndarray
    seen_M: np.ndarray
    entropy_M: np.ndarray

    def part(self, begin: int, end: int) -> "_Scores":
        return _Scores(*(array[begin:end] for array in (self.bits_M, self.ranks_M, self.seen_M, self.entropy_M)))


class _LineCutter:
    """Cuts scored characters into lines. The first character of a file, which is not predicted, counts as drawn
    uniformly from the alphabet."""

    def __init__(self, corpus: Corpus, consume: LineConsumer, with_entropy: bool, allow_pieces: bool) -> None:
        self.corpus, self.consume = corpus, consume
        self.with_entropy, self.allow_pieces = with_entropy, allow_pieces
        letters = corpus.alphabet.letters
        self.newline = letters.find(NEWLINE.decode()) if letters else NEWLINE[0]
        self.begin = self.next = 0  # of the current line, and of the next scored symbol
        self.pending: list[_Scores] = []  # of the current line
        self.file, self.line = int(np.searchsorted(corpus.ends_F, 0, "right")), 1

    def add(self, scored: ScoredCharacters) -> None:
        self._add_until(int(scored.positions_M[-1]) + 1, scored)

    def finish(self) -> None:
        """Passes on what is left: a last file of one character was not scored."""
        self._add_until(len(self.corpus.ids_N), None)

    def _add_until(self, end: int, scored: ScoredCharacters | None) -> None:
        begin, count, uniform = self.next, end - self.next, math.log2(self.corpus.alphabet.size)
        new = _Scores(
            np.full(count, uniform), np.zeros(count, np.int32), np.zeros(count, np.int32), np.full(count, uniform)
        )
        if scored is not None:
            places_M = scored.positions_M - begin
            new.bits_M[places_M] = scored.nats_M / math.log(2)
            new.ranks_M[places_M], new.seen_M[places_M] = scored.ranks_M, scored.context_M
            if scored.entropy_M is not None:
                new.entropy_M[places_M] = scored.entropy_M
        self.next = end
        lines, done = [], begin
        for cut in self._cuts(begin, end):
            self.pending.append(new.part(done - begin, cut - begin))
            lines.append(self._take_line(cut))
            done = cut
        if done < end:
            self.pending.append(new.part(done - begin, count))
        if end - self.begin > MAX_LINE_BYTES:
            if not self.allow_pieces:
                raise UserError(
                    f"{self.corpus.file_names[self.file]}, line {self.line} has more than {MAX_LINE_BYTES:,} symbols, "
                    "which are too many for one row; use --by file or --by character"
                )
            lines.append(self._take_line(end))
        check_finite(lines)
        if lines:
            self.consume(lines)

    def _cuts(self, begin: int, end: int) -> list[int]:
        """Where lines and files end."""
        newlines_M = np.flatnonzero(self.corpus.ids_N[begin:end] == self.newline) + begin + 1
        ends_F = self.corpus.ends_F
        files_F = ends_F[np.searchsorted(ends_F, begin, "right") : np.searchsorted(ends_F, end, "right")]
        return np.union1d(newlines_M, files_F).tolist()

    def _take_line(self, end: int) -> ScoredLine:
        ends_F, pieces = self.corpus.ends_F, self.pending
        file_begin = int(ends_F[self.file - 1]) if self.file else 0
        ids_M = np.array(self.corpus.ids_N[self.begin : end])
        has_end = bool(ids_M[-1] == self.newline)
        entropy_M = np.concatenate([piece.entropy_M for piece in pieces]) if self.with_entropy else None
        line = ScoredLine(
            self.corpus.file_names[self.file], self.line, self.begin - file_begin, ids_M, has_end,
            np.concatenate([piece.bits_M for piece in pieces]), np.concatenate([piece.ranks_M for piece in pieces]),
            np.concatenate([piece.seen_M for piece in pieces]), entropy_M,
        )  # fmt: skip
        self.pending, self.begin = [], end
        if end >= ends_F[self.file]:
            self.file, self.line = int(np.searchsorted(ends_F, end, "right")), 1
        else:
            self.line += has_end
        return line
