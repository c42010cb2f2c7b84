"""Copying drafts: what came after the last characters before, in the text so far or in the training text. The control
that any learned drafter has to beat.

Shapes: N characters of the training text.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from charladder.generation.sampler import Drafts

if TYPE_CHECKING:
    from charladder.generation.sequence import SequenceState

ORDERS = (12, 8, 6, 5, 4, 3, 2)  # how many last characters are looked up, the longest first
READ = 1 << 23  # characters of a training text; of a longer one the first
HELD = 1 << 16  # characters of a text that are looked up; of a longer one the last, or up to twice as many
SPREAD = np.uint64(0x9E3779B97F4A7C15)


class NgramDrafter:
    """For each order, the commonest next character of the training text, and, before that, the latest of the text
    itself."""

    name = "ngram"
    max_characters = HELD

    def __init__(self, training_N: np.ndarray | None = None, length: int = 4) -> None:
        """training_N: ids; a few seconds go into counting them."""
        self.max_length = length
        self.common = {} if training_N is None else {n: MostFrequentNext(training_N[:READ], n) for n in ORDERS}
        self.texts: dict[int, list[int]] = {}
        self.latest: dict[int, dict[tuple[int, ...], int]] = {}
        self.seen: dict[int, int] = {}  # characters written that have been taken in

    def begin(self, sequences: Sequence["SequenceState"]) -> None:
        """Takes in the prompts."""
        for sequence in sequences:
            self.texts[sequence.slot], self.latest[sequence.slot] = [], {}
            self.index(sequence.slot, sequence.prompt[-self.max_characters :])
            self.seen[sequence.slot] = 0

    def index(self, number: int, ids: Sequence[int]) -> None:
        text, latest = self.texts[number], self.latest[number]
        if len(text) > 2 * self.max_characters:
            kept = text[-self.max_characters :]
            text.clear()
            latest.clear()
            self.index(number, kept)
        for one in ids:
            for n in ORDERS[:4]:
                if len(text) >= n:
                    latest[tuple(text[-n:])] = one
            text.append(one)

    def draft(self, sequences: Sequence["SequenceState"], limits: Sequence[int]) -> Drafts:
        counts, ids = [], []
        for sequence, n in zip(sequences, limits, strict=True):
            self.index(sequence.slot, sequence.ids[self.seen[sequence.slot] :])
            self.seen[sequence.slot] = len(sequence.ids)
            found = self.continuation(sequence.slot, min(n, self.max_length))
            counts.append(len(found))
            ids += found
        return Drafts(counts, ids, None)

    def continuation(self, number: int, most: int) -> list[int]:
        last, latest, found = self.texts[number][-ORDERS[0] :], self.latest[number], []
        while len(found) < most:
            next_id = -1
            for n in ORDERS:
                if len(last) < n:
                    continue
                key = tuple(last[-n:])
                next_id = latest.get(key, -1) if n >= ORDERS[3] else -1
                if next_id < 0 and n in self.common:
                    next_id = self.common[n].after(key)
                if next_id >= 0:
                    break
            if next_id < 0:
                break
            found.append(next_id)
            last = [*last[1 - ORDERS[0] :], next_id]
        return found

    def end(self, sequences: Sequence["SequenceState"]) -> None:
        for sequence in sequences:
            for kept in (self.texts, self.latest, self.seen):
                kept.pop(sequence.slot, None)

    def observe(self, passes: int, characters: int, seconds: float) -> None:
        """Nothing to learn."""


class MostFrequentNext:
    """The commonest character after every n characters of a text."""

    def __init__(self, text_N: np.ndarray, order: int) -> None:
        self.keys, self.next_id = np.empty(0, np.uint64), np.empty(0, np.int64)
        if len(text_N) <= order:
            return
        symbols = int(text_N.max()) + 1
        hash_N = np.zeros(len(text_N) - order, np.uint64)
        for back in range(order):
            hash_N = (hash_N + text_N[back : back + len(hash_N)].astype(np.uint64) + np.uint64(1)) * SPREAD
        # The next character in the low bits: one sort counts both.
        low = np.uint64(max(1, (symbols - 1).bit_length()))
        both, counts = np.unique((hash_N >> low << low) | text_N[order:].astype(np.uint64), return_counts=True)
        best = np.lexsort((counts, both >> low))
        keys = (both >> low)[best]
        last = np.flatnonzero(np.append(keys[1:] != keys[:-1], True))
        self.low, self.keys = int(low), keys[last]
        self.next_id = (both[best][last] & np.uint64((1 << int(low)) - 1)).astype(np.int64)

    def after(self, last: Sequence[int]) -> int:
        """What comes after these characters, or -1 where they never came."""
        if not len(self.keys):
            return -1
        number = 0
        for one in last:
            number = (number + one + 1) * int(SPREAD) & 0xFFFFFFFFFFFFFFFF
        key = number >> self.low
        place = int(self.keys.searchsorted(np.uint64(key)))
        return int(self.next_id[place]) if place < len(self.keys) and self.keys[place] == key else -1
