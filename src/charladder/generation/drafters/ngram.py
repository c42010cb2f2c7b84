"""Copying drafts: what came after the last characters before, in the text so far or in the training text. The control
that any learned drafter has to beat.

Shapes: N characters of the training text.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from charladder.generation.verification import Drafts

if TYPE_CHECKING:
    from charladder.generation.stream import Stream

ORDERS = (12, 8, 6, 5, 4, 3, 2)  # how many last characters are looked up, the longest first
READ = 1 << 23  # characters of a training text; of a longer one the first
HELD = 1 << 16  # characters of a text that are looked up; of a longer one the last, or up to twice as many
SPREAD = np.uint64(0x9E3779B97F4A7C15)


class NgramDrafter:
    """For each order, the commonest next character of the training text, and, before that, the latest of the text
    itself."""

    name = "ngram"
    held = HELD

    def __init__(self, training_N: np.ndarray | None = None, length: int = 4) -> None:
        """training_N: ids; a few seconds go into counting them."""
        self.most = length
        self.common = {} if training_N is None else {n: Commonest(training_N[:READ], n) for n in ORDERS}
        self.texts: dict[int, list[int]] = {}
        self.latest: dict[int, dict[tuple[int, ...], int]] = {}
        self.seen: dict[int, int] = {}  # characters written that have been taken in

    def begin(self, streams: Sequence["Stream"]) -> None:
        """Takes in the prompts."""
        for stream in streams:
            self.texts[stream.number], self.latest[stream.number] = [], {}
            self.take_in(stream.number, stream.prompt[-self.held :])
            self.seen[stream.number] = 0

    def take_in(self, number: int, ids: Sequence[int]) -> None:
        text, latest = self.texts[number], self.latest[number]
        if len(text) > 2 * self.held:
            kept = text[-self.held :]
            text.clear()
            latest.clear()
            self.take_in(number, kept)
        for one in ids:
            for n in ORDERS[:4]:
                if len(text) >= n:
                    latest[tuple(text[-n:])] = one
            text.append(one)

    def draft(self, streams: Sequence["Stream"], most: Sequence[int]) -> Drafts:
        counts, ids = [], []
        for stream, n in zip(streams, most, strict=True):
            self.take_in(stream.number, stream.ids[self.seen[stream.number] :])
            self.seen[stream.number] = len(stream.ids)
            found = self.follow(stream.number, min(n, self.most))
            counts.append(len(found))
            ids += found
        return Drafts(counts, ids, None)

    def follow(self, number: int, most: int) -> list[int]:
        last, latest, found = self.texts[number][-ORDERS[0] :], self.latest[number], []
        while len(found) < most:
            following = -1
            for n in ORDERS:
                if len(last) < n:
                    continue
                key = tuple(last[-n:])
                following = latest.get(key, -1) if n >= ORDERS[3] else -1
                if following < 0 and n in self.common:
                    following = self.common[n].after(key)
                if following >= 0:
                    break
            if following < 0:
                break
            found.append(following)
            last = [*last[1 - ORDERS[0] :], following]
        return found

    def end(self, streams: Sequence["Stream"]) -> None:
        for stream in streams:
            for kept in (self.texts, self.latest, self.seen):
                kept.pop(stream.number, None)

    def told(self, passes: int, characters: int, seconds: float) -> None:
        """Nothing to learn."""


class Commonest:
    """The commonest character after every n characters of a text."""

    def __init__(self, text_N: np.ndarray, order: int) -> None:
        self.keys, self.following = np.empty(0, np.uint64), np.empty(0, np.int64)
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
        self.following = (both[best][last] & np.uint64((1 << int(low)) - 1)).astype(np.int64)

    def after(self, last: Sequence[int]) -> int:
        """What comes after these characters, or -1 where they never came."""
        if not len(self.keys):
            return -1
        number = 0
        for one in last:
            number = (number + one + 1) * int(SPREAD) & 0xFFFFFFFFFFFFFFFF
        key = number >> self.low
        place = int(self.keys.searchsorted(np.uint64(key)))
        return int(self.following[place]) if place < len(self.keys) and self.keys[place] == key else -1
