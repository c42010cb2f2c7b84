"""The segments of a text, which are coded side by side, one symbol of each at every step.

Segments have equal lengths, except that the first ones may have one symbol more.
"""

from dataclasses import dataclass

CHARACTERS_OF_A_SEGMENT = 1 << 16  # a segment begins without context, which costs some 20 bytes
MAX_SEGMENTS = 64


@dataclass(frozen=True)
class Segments:
    """symbols: the length of the text. count: the number of segments, at most one for each symbol."""

    symbols: int
    count: int

    @property
    def steps(self) -> int:
        """The length of the longest segment."""
        return -(-self.symbols // self.count) if self.count else 0

    def rows(self, step: int) -> int:
        """How many segments, the first ones, have a symbol at this step."""
        return self.count if step < self.symbols // self.count else self.symbols % self.count

    def begin(self, segment: int) -> int:
        """The position in the text at which a segment begins."""
        return segment * (self.symbols // self.count) + min(segment, self.symbols % self.count)

    def length(self, segment: int, first: int, last: int) -> int:
        """How many symbols of a segment are in the steps from `first` up to `last`, excluding it."""
        own = self.symbols // self.count + (segment < self.symbols % self.count)
        return max(0, min(last, own) - first)


def choose_segments(symbols: int, characters: int = CHARACTERS_OF_A_SEGMENT) -> Segments:
    """The segments of a text: one for each `characters`, at least one and at most 64."""
    return Segments(symbols, min(symbols, MAX_SEGMENTS, max(1, symbols // characters)))
