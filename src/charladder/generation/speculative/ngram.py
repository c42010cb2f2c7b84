"""The n-gram drafter: proposes the characters that followed the same n-gram earlier, in the text so far or in the
training text. It has no parameters: a drafter with trained heads is useful only if it is faster than this one.

Shapes: N characters of the training text.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from charladder.generation.speculative.drafter import Drafter, Drafts

if TYPE_CHECKING:
    from charladder.generation.sequence import SequenceState

ORDERS = (12, 8, 6, 5, 4, 3, 2)  # lengths n of the n-grams that are looked up, the longest first
INDEXED_ORDERS = ORDERS[:4]  # those of them that are looked up in the text so far too
MAX_TRAINING_CHARACTERS = 1 << 23  # counted at the start of the training text
MAX_INDEXED_CHARACTERS = 1 << 16  # of the text so far; the index is rebuilt when the text is twice as long
_HASH_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class NgramDrafter(Drafter):
    """Proposes, for the longest n-gram that is known, the character that followed it last in the text so far, or else
    the one that followed it most often in the training text."""

    name = "ngram"

    def __init__(
        self, training_N: np.ndarray | None = None, length: int = 4, max_characters: int = MAX_INDEXED_CHARACTERS
    ) -> None:
        """training_N: ids of the training text; counting them takes a few seconds. max_characters: how much of the text
        so far is indexed."""
        self.max_length, self.max_characters = length, max_characters
        self.most_frequent: dict[int, MostFrequentNext] = {}
        if training_N is not None:
            self.most_frequent = {n: MostFrequentNext(training_N[:MAX_TRAINING_CHARACTERS], n) for n in ORDERS}
        # The indexes below have the slot as key.
        self.texts: dict[int, list[int]] = {}
        self.latest: dict[int, dict[tuple[int, ...], int]] = {}
        self.indexed: dict[int, int] = {}  # how many generated characters are indexed

    def begin(self, sequences: Sequence["SequenceState"]) -> None:
        for sequence in sequences:
            self.texts[sequence.slot], self.latest[sequence.slot] = [], {}
            self._index(sequence.slot, sequence.prompt[-self.max_characters :])
            self.indexed[sequence.slot] = 0

    def _index(self, slot: int, ids: Sequence[int]) -> None:
        text, latest = self.texts[slot], self.latest[slot]
        if len(text) > 2 * self.max_characters:
            recent = text[-self.max_characters :]
            text.clear()
            latest.clear()
            self._index(slot, recent)
        for symbol in ids:
            for n in INDEXED_ORDERS:
                if len(text) >= n:
                    latest[tuple(text[-n:])] = symbol
            text.append(symbol)

    def draft(self, sequences: Sequence["SequenceState"], limits: Sequence[int]) -> Drafts:
        counts, ids = [], []
        for sequence, limit in zip(sequences, limits, strict=True):
            self._index(sequence.slot, sequence.ids[self.indexed[sequence.slot] :])
            self.indexed[sequence.slot] = len(sequence.ids)
            draft = self._continuation(sequence.slot, min(limit, self.max_length))
            counts.append(len(draft))
            ids += draft
        return Drafts(counts, ids, None)

    def _continuation(self, slot: int, limit: int) -> list[int]:
        last, latest, draft = self.texts[slot][-ORDERS[0] :], self.latest[slot], []
        while len(draft) < limit:
            next_id = -1
            for n in ORDERS:
                if len(last) < n:
                    continue
                ngram = tuple(last[-n:])
                next_id = latest.get(ngram, -1) if n in INDEXED_ORDERS else -1
                if next_id < 0 and n in self.most_frequent:
                    next_id = self.most_frequent[n].predict(ngram)
                if next_id >= 0:
                    break
            if next_id < 0:
                break
            draft.append(next_id)
            last = [*last[1 - ORDERS[0] :], next_id]
        return draft

    def end(self, sequences: Sequence["SequenceState"]) -> None:
        for sequence in sequences:
            for by_slot in (self.texts, self.latest, self.indexed):
                by_slot.pop(sequence.slot, None)


class MostFrequentNext:
    """The most frequent character after every n-gram of a text."""

    def __init__(self, text_N: np.ndarray, order: int) -> None:
        self.keys, self.next_ids = np.empty(0, np.uint64), np.empty(0, np.int64)
        if len(text_N) <= order:
            return
        symbols = int(text_N.max()) + 1
        hash_N = np.zeros(len(text_N) - order, np.uint64)
        for offset in range(order):
            hash_N = (
                hash_N + text_N[offset : offset + len(hash_N)].astype(np.uint64) + np.uint64(1)
            ) * _HASH_MULTIPLIER
        # The next character replaces the low bits of the hash, so that one sort counts all pairs.
        bits = np.uint64(max(1, (symbols - 1).bit_length()))
        pairs, counts = np.unique((hash_N >> bits << bits) | text_N[order:].astype(np.uint64), return_counts=True)
        by_count = np.lexsort((counts, pairs >> bits))
        keys = (pairs >> bits)[by_count]
        last = np.flatnonzero(np.append(keys[1:] != keys[:-1], True))
        self.symbol_bits, self.keys = int(bits), keys[last]
        self.next_ids = (pairs[by_count][last] & np.uint64((1 << int(bits)) - 1)).astype(np.int64)

    def predict(self, ngram: Sequence[int]) -> int:
        """The most frequent character after these n characters, or -1 where the text does not contain them."""
        if not len(self.keys):
            return -1
        digest = 0
        for symbol in ngram:
            digest = (digest + symbol + 1) * int(_HASH_MULTIPLIER) & 0xFFFFFFFFFFFFFFFF
        key = digest >> self.symbol_bits
        row = int(self.keys.searchsorted(np.uint64(key)))
        return int(self.next_ids[row]) if row < len(self.keys) and self.keys[row] == key else -1
