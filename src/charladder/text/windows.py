"""Windows: the pieces of text that training sees.

Which window example number g is, is a function of (seed, g) alone: the sampler's whole state is how many examples
it has given. So a resumed run, one with other micro-batches, and one with other ranks read the same text.

Shapes: B examples, T + K characters a window (T inputs, and K further ones so that every target offset from 1 to K
has equally many targets), S stretches of text that windows do not leave (one, or the files of a corpus).
"""

import numpy as np

from charladder.errors import UserError
from charladder.text.memory_map import release

MASK = (1 << 64) - 1
RELEASE = 64  # windows after which a memory-mapped text's pages are let go


def hash64(seed: int, values: np.ndarray) -> np.ndarray:
    """A well-mixed uint64 for each value: the finaliser of splitmix64 over a seeded Weyl sequence."""
    start = np.uint64((seed * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15) & MASK)
    with np.errstate(over="ignore"):
        x = (values.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) ^ start
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def permute(seed: int, values: np.ndarray, count: int) -> np.ndarray:
    """Where each value in [0, count) goes under a pseudo-random permutation, without storing one.

    A four-round Feistel network over the next even power of two, walked until it lands inside.
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    low = np.uint64((1 << half) - 1)
    out, outside = values.astype(np.uint64), np.ones(len(values), bool)
    while outside.any():
        left, right = out[outside] >> np.uint64(half), out[outside] & low
        for turn in range(4):
            left, right = right, left ^ (hash64(seed * 4 + turn, right) & low)
        out[outside] = (left << np.uint64(half)) | right
        outside = out >= np.uint64(count)
    return out.astype(np.int64)


def stretches(part: tuple[int, int], ends_F: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Where the stretches of a part begin and end, (S,) each: the files in it (the outer ones cut), or all of it."""
    begin, end = part
    inner_F = np.empty(0, np.int64) if ends_F is None else ends_F[(ends_F > begin) & (ends_F < end)]
    edges = np.concatenate([[begin], inner_F, [end]]).astype(np.int64)
    return edges[:-1], edges[1:]


class Windows:
    """Windows of `length` inputs and `ahead` further characters from ids_N[begin:end].

    `order` is `random` (every start equally likely) or `epochs` (each pass covers the text once, in windows that do
    not overlap, shuffled, with a new phase each pass). With `ends_F`, where the files of the text end, no window
    runs from one file into the next; files shorter than a window are then left out.
    """

    def __init__(
        self,
        ids_N: np.ndarray,
        part: tuple[int, int],
        length: int,
        ahead: int,
        seed: int,
        order: str = "random",
        ends_F: np.ndarray | None = None,
    ) -> None:
        self.ids_N, self.length, self.ahead, self.seed, self.order = ids_N, length, ahead, seed, order
        self.begin, self.end = part
        self.given = 0
        self.begins_S, ends_S = stretches(part, ends_F)
        longest = int((ends_S - self.begins_S).max(initial=0))
        if longest < length + ahead:
            one = "the training part has" if ends_F is None else "the longest file of the training part has"
            raise UserError(
                f"{one} {longest} characters, fewer than one window of {length} "
                f"and {ahead} further ones; give more text or a smaller context"
            )
        long_S = ends_S - self.begins_S >= length + ahead
        self.begins_S, ends_S = self.begins_S[long_S], ends_S[long_S]
        self.used = int((ends_S - self.begins_S).sum())
        self.rooms_S = ends_S - self.begins_S - ahead
        self.starts_S = np.cumsum(self.rooms_S - length + 1)  # how many starts there are up to each stretch's end
        self.places_S = np.cumsum(self.rooms_S // length)  # the same for the windows of one pass
        self.per_pass = int(self.places_S[-1])

    @property
    def passes(self) -> float:
        """Passes over the training part so far: inputs given over characters there."""
        return self.given * self.length / self.used

    def starts(self, examples: np.ndarray) -> np.ndarray:
        """Where the windows of these example numbers start."""
        if self.order == "random":
            draws = (hash64(self.seed, examples) % np.uint64(self.starts_S[-1])).astype(np.int64)
            which = np.searchsorted(self.starts_S, draws, "right")
            return self.begins_S[which] + draws - (self.starts_S[which] - (self.rooms_S[which] - self.length + 1))
        epochs, places = np.divmod(examples, self.per_pass)
        starts = np.empty(len(examples), np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            order = permute(self.seed + 2 + int(epoch), places[chosen], self.per_pass)
            which = np.searchsorted(self.places_S, order, "right")
            windows_S = self.rooms_S[which] // self.length
            slack_S = (self.rooms_S[which] - windows_S * self.length + 1).astype(np.uint64)
            phase = (hash64(self.seed + 1, np.array([epoch])) % slack_S).astype(np.int64)
            inside = order - (self.places_S[which] - windows_S)
            starts[chosen] = self.begins_S[which] + phase + inside * self.length
        return starts

    def take(self, batch: int, pieces: int = 1, rank: int = 0, ranks: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The next windows, int64 (B, T + K), and their example numbers, int64 (B,).

        With several ranks, which all take the same batch, those of one of them: no two have a window in common.

        With `pieces`, each is cut into so many shorter ones of the same text, with K further characters of their own; a
        remainder of fewer characters than pieces is left out.
        """
        share = batch // ranks
        examples = np.arange(self.given, self.given + batch)[rank * share : (rank + 1) * share]
        self.given += batch
        if self.given // RELEASE != (self.given - batch) // RELEASE:
            release(self.ids_N)
        length = self.length // pieces
        starts = (self.starts(examples)[:, None] + length * np.arange(pieces)).reshape(-1)
        numbers = (examples[:, None] * pieces + np.arange(pieces)).reshape(-1)
        return self.ids_N[starts[:, None] + np.arange(length + self.ahead)].astype(np.int64), numbers

    def state(self) -> dict[str, int]:
        return {"examples": self.given}

    def restore(self, state: dict[str, int]) -> None:
        self.given = state["examples"]
