"""A text that is wanted, and what the event loop hears of it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from charladder.generation.distribution import SamplingParams
from charladder.generation.sequence import SequenceState
from charladder.generation.speculative.factory import DrafterName


class Full(Exception):
    """There is no place for more, now."""


class Failed(Exception):
    """The text cannot be written. `sentence` is for the client, `status` that of the answer."""

    def __init__(self, sentence: str, status: int = 500) -> None:
        super().__init__(sentence)
        self.sentence, self.status = sentence, status


@dataclass(frozen=True)
class Piece:
    """What has been settled since the piece before: ids, their nats, whether each was an accepted draft, the likeliest
    symbols there. finish: None, `length`, `stop`, or `time` where the time was over."""

    ids: list[int]
    nats: list[float]
    drafted: list[bool]
    likeliest: list[list[tuple[int, float]]]
    finish: str | None


@dataclass(eq=False, slots=True)
class Ticket:
    """A text that is wanted, and where it stands."""

    prompt: list[int]
    length: int
    sampling: SamplingParams
    draft: DrafterName
    seed: int
    sample: int  # which of the texts after the same prompt
    opening: list[int]  # what the network reads where the prompt is empty
    stops: Sequence[Sequence[int]] = ()
    top: int = 0
    deadline: float = float("inf")  # of time.monotonic()
    sequence: SequenceState | None = None
    cancelled: bool = False
    sent: int = 0  # characters that the event loop knows of
    told: float = 0.0
    steps: int = 0
    began: float = 0.0  # when it joined
    ended: float = 0.0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    pieces: deque[Piece | Exception] = field(default_factory=deque)

    def receive(self, piece: Piece | Exception) -> None:
        """In the event loop."""
        self.pieces.append(piece)
        self.arrived.set()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Pieces until the one with a finish. Raises Failed."""
        while True:
            while not self.pieces:
                self.arrived.clear()
                await self.arrived.wait()
            piece = self.pieces.popleft()
            if isinstance(piece, Exception):
                raise piece
            yield piece
            if piece.finish:
                return
