"""What a drafter is to the writer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from charladder.generation.verification import Drafts

if TYPE_CHECKING:
    from charladder.generation.stream import Stream


class Drafter(Protocol):
    """Proposes what may come after the character that each stream has chosen last.

    The text is the model's own whatever is proposed: only how soon it is there depends on it. Random numbers come from
    the stream's own generator.
    """

    name: str

    def begin(self, streams: Sequence["Stream"]) -> None:
        """All streams of a writer, before anything is read."""
        ...

    def draft(self, streams: Sequence["Stream"], most: Sequence[int]) -> Drafts:
        """Proposals for these streams, at most so many for each."""
        ...

    def end(self, streams: Sequence["Stream"]) -> None:
        """These leave the writer; others may get their numbers."""
        ...

    def told(self, passes: int, characters: int, seconds: float) -> None:
        """What came of the last proposals: passes of one stream each, characters that they gave, seconds of it all."""
        ...
