"""The absence of a drafter: one character per pass."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from charladder.generation.speculative.drafter import Drafts

if TYPE_CHECKING:
    from charladder.generation.sequence import SequenceState


def no_drafts(sequences: Sequence["SequenceState"], idle: bool = False) -> Drafts:
    return Drafts([0] * len(sequences), [], None, idle=idle)


class NoDrafter:
    name = "none"

    def begin(self, sequences: Sequence["SequenceState"]) -> None:
        """Not used."""

    def draft(self, sequences: Sequence["SequenceState"], limits: Sequence[int]) -> Drafts:
        return no_drafts(sequences, idle=True)

    def end(self, sequences: Sequence["SequenceState"]) -> None:
        """Not used."""

    def observe(self, passes: int, characters: int, seconds: float) -> None:
        """Not used."""
