"""No drafts: one character a pass."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from charladder.generation.verification import Drafts

if TYPE_CHECKING:
    from charladder.generation.stream import Stream


def nothing(streams: Sequence["Stream"], resting: bool = False) -> Drafts:
    return Drafts([0] * len(streams), [], None, resting=resting)


class NoDrafter:
    name = "none"

    def begin(self, streams: Sequence["Stream"]) -> None:
        """Nothing to prepare."""

    def draft(self, streams: Sequence["Stream"], most: Sequence[int]) -> Drafts:
        return nothing(streams, resting=True)

    def end(self, streams: Sequence["Stream"]) -> None:
        """Nothing to forget."""

    def told(self, passes: int, characters: int, seconds: float) -> None:
        """Nothing to learn."""
