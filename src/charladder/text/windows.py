"""Sampling of training windows.

The window of example number g is a function of (seed, g) alone: the state of the sampler is the number of examples
taken. So a resumed run, and runs with other micro-batches or ranks, read the same text.

Shapes: B examples, T + K characters a window (T inputs, and K further ones so that every target offset from 1 to K
has equally many targets), S ranges of text that windows do not cross (one, or the files of a corpus).
"""

import numpy as np

from charladder.errors import UserError
from charladder.text.memory_map import release_pages

_UINT64_MASK = (1 << 64) - 1
WINDOWS_PER_RELEASE = 64  # the pages of a memory-mapped text are released once for so many windows


def hash64(seed: int, values: np.ndarray) -> np.ndarray:
    """A uint64 hash of each value: the finaliser of splitmix64 over a seeded Weyl sequence."""
    start = np.uint64((seed * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15) & _UINT64_MASK)
    with np.errstate(over="ignore"):
        x = (values.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) ^ start
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def permute(seed: int, values: np.ndarray, count: int) -> np.ndarray:
    """The images of values in [0, count) under a pseudo-random permutation, which is not stored.

    A four-round Feistel network over the next even power of two, applied again while the image is outside the range.
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    low = np.uint64((1 << half) - 1)
    out, outside = values.astype(np.uint64), np.ones(len(values), bool)
    while outside.any():
        left, right = out[outside] >> np.uint64(half), out[outside] & low
        for round_number in range(4):
            left, right = right, left ^ (hash64(seed * 4 + round_number, right) & low)
        out[outside] = (left << np.uint64(half)) | right
        outside = out >= np.uint64(count)
    return out.astype(np.int64)


def _file_ranges(part: tuple[int, int], ends_F: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The begins and ends, (S,) each, of the files in a part (the outer ones cut), or of the whole part."""
    begin, end = part
    inner_F = np.empty(0, np.int64) if ends_F is None else ends_F[(ends_F > begin) & (ends_F < end)]
    edges = np.concatenate([[begin], inner_F, [end]]).astype(np.int64)
    return edges[:-1], edges[1:]


class Windows:
    """A sampler of windows of `length` inputs and `lookahead` further characters from ids_N[begin:end].

    order: `random` (every start equally likely) or `epochs` (each pass covers the text once, in shuffled windows that
    do not overlap, with a new phase each pass). ends_F: the ends of the files of the text; no window then crosses from
    one file into the next, and files shorter than a window are left out.
    """

    def __init__(
        self,
        ids_N: np.ndarray,
        part: tuple[int, int],
        length: int,
        lookahead: int,
        seed: int,
        order: str = "random",
        ends_F: np.ndarray | None = None,
    ) -> None:
        self.ids_N, self.length, self.lookahead, self.seed, self.order = ids_N, length, lookahead, seed, order
        self.begin, self.end = part
        self.examples_taken = 0
        self.range_begins_S, ends_S = _file_ranges(part, ends_F)
        longest = int((ends_S - self.range_begins_S).max(initial=0))
        if longest < length + lookahead:
            one = "the training part has" if ends_F is None else "the longest file of the training part has"
            raise UserError(
                f"{one} {longest} characters, fewer than one window of {length} "
                f"and {lookahead} further ones; give more text or a smaller context"
            )
        long_S = ends_S - self.range_begins_S >= length + lookahead
        self.range_begins_S, ends_S = self.range_begins_S[long_S], ends_S[long_S]
        self.usable_characters = int((ends_S - self.range_begins_S).sum())
        self.lengths_S = ends_S - self.range_begins_S - lookahead
        self.start_counts_S = np.cumsum(self.lengths_S - length + 1)  # possible starts up to the end of each range
        self.window_counts_S = np.cumsum(self.lengths_S // length)  # the same for the windows of one pass
        self.windows_per_pass = int(self.window_counts_S[-1])

    @property
    def passes(self) -> float:
        """The number of passes over the training part so far: inputs taken, divided by its characters."""
        return self.examples_taken * self.length / self.usable_characters

    def starts(self, examples: np.ndarray) -> np.ndarray:
        """The positions at which the windows of these example numbers start."""
        if self.order == "random":
            draws = (hash64(self.seed, examples) % np.uint64(self.start_counts_S[-1])).astype(np.int64)
            which = np.searchsorted(self.start_counts_S, draws, "right")
            return (
                self.range_begins_S[which]
                + draws
                - (self.start_counts_S[which] - (self.lengths_S[which] - self.length + 1))
            )
        epochs, indices = np.divmod(examples, self.windows_per_pass)
        starts = np.empty(len(examples), np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            order = permute(self.seed + 2 + int(epoch), indices[chosen], self.windows_per_pass)
            which = np.searchsorted(self.window_counts_S, order, "right")
            windows_S = self.lengths_S[which] // self.length
            slack_S = (self.lengths_S[which] - windows_S * self.length + 1).astype(np.uint64)
            phase = (hash64(self.seed + 1, np.array([epoch])) % slack_S).astype(np.int64)
            inside = order - (self.window_counts_S[which] - windows_S)
            starts[chosen] = self.range_begins_S[which] + phase + inside * self.length
        return starts

    def take(self, batch: int, pieces: int = 1, rank: int = 0, ranks: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The next windows, int64 (B, T + K), and their example numbers, int64 (B,).

        With several `ranks`, every rank calls this with the same `batch` and gets its own share of it. With `pieces`,
        each window is cut into that many shorter windows, each with K further characters; a remainder of fewer
        characters than pieces is left out.
        """
        share = batch // ranks
        examples = np.arange(self.examples_taken, self.examples_taken + batch)[rank * share : (rank + 1) * share]
        self.examples_taken += batch
        if self.examples_taken // WINDOWS_PER_RELEASE != (self.examples_taken - batch) // WINDOWS_PER_RELEASE:
            release_pages(self.ids_N)
        length = self.length // pieces
        starts = (self.starts(examples)[:, None] + length * np.arange(pieces)).reshape(-1)
        numbers = (examples[:, None] * pieces + np.arange(pieces)).reshape(-1)
        return self.ids_N[starts[:, None] + np.arange(length + self.lookahead)].astype(np.int64), numbers

    def state_dict(self) -> dict[str, int]:
        return {"examples": self.examples_taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.examples_taken = state["examples"]
