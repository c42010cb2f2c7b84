"""The interface of a drafter."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from charladder.generation.sampler import Drafts

if TYPE_CHECKING:
    from charladder.generation.sequence import SequenceState


class Drafter(Protocol):
    """Proposes the next characters of each sequence.

    The proposals affect the speed, not the distribution of the text. Random numbers come from `SequenceState.uniform`.
    """

    name: str

    def begin(self, sequences: Sequence["SequenceState"]) -> None:
        """Called for new sequences before their prompts are read. A drafter that reads the inputs of the output
        layer at all positions sets `finals` of each sequence to a list here."""
        ...

    def draft(self, sequences: Sequence["SequenceState"], limits: Sequence[int]) -> Drafts:
        """Proposes at most limits[n] characters for sequence n."""
        ...

    def end(self, sequences: Sequence["SequenceState"]) -> None:
        """Called when sequences are removed; their slots may be reused."""
        ...

    def observe(self, passes: int, characters: int, seconds: float) -> None:
        """Called after verification: the number of passes (one per sequence) and characters, and the time taken."""
        ...
