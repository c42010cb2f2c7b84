"""The drafter that proposes nothing, so that each pass generates one character of a sequence."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from charladder.generation.speculative.drafter import Drafter, Drafts

if TYPE_CHECKING:
    from charladder.generation.sequence import SequenceState


def no_drafts(sequences: Sequence["SequenceState"], idle: bool = False) -> Drafts:
    return Drafts([0] * len(sequences), [], None, idle=idle)


class NoDrafter(Drafter):
    name = "none"

    def draft(self, sequences: Sequence["SequenceState"], limits: Sequence[int]) -> Drafts:
        return no_drafts(sequences, idle=True)
