"""The interface of a drafter."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from charladder.generation.sampler import Drafts

if TYPE_CHECKING:
    from charladder.generation.sequence import SequenceState


class Drafter(Protocol):
    """Proposes what may come after the last character of each sequence.

    The distribution of the text does not depend on the proposals, only the speed does. Random numbers come from the
    sequence's own generator.
    """

    name: str

    def begin(self, sequences: Sequence["SequenceState"]) -> None:
        """Called with new sequences before their prompts are read."""
        ...

    def draft(self, sequences: Sequence["SequenceState"], limits: Sequence[int]) -> Drafts:
        """Proposals for these sequences, at most `limits` characters for each."""
        ...

    def end(self, sequences: Sequence["SequenceState"]) -> None:
        """Called when sequences are removed; others may get their slots."""
        ...

    def observe(self, passes: int, characters: int, seconds: float) -> None:
        """Called after verification: passes (one for each sequence), the characters that they gave, seconds in all."""
        ...
