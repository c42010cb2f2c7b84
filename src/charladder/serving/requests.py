"""A text that is wanted, and what the event loop hears of it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from charladder.generation.distribution import SamplingParams
from charladder.generation.sequence import SequenceState
from charladder.generation.speculative.factory import DrafterName


class QueueFull(Exception):
    """There is no place for more, now."""


class GenerationError(Exception):
    """The text cannot be written. `sentence` is for the client, `status` that of the answer."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.message, self.status = message, status


@dataclass(frozen=True)
class OutputChunk:
    """What has been settled since the piece before: ids, their nats, whether each was an accepted draft, the likeliest
    symbols there. finish: None, `length`, `stop`, or `time` where the time was over."""

    ids: list[int]
    nats: list[float]
    drafted: list[bool]
    top_candidates: list[list[tuple[int, float]]]
    finish_reason: str | None


@dataclass(eq=False, slots=True)
class GenerationRequest:
    """A text that is wanted, and where it stands."""

    prompt: list[int]
    length: int
    sampling: SamplingParams
    draft: DrafterName
    seed: int
    sample_index: int  # which of the texts after the same prompt
    empty_prompt_ids: list[int]  # what the network reads where the prompt is empty
    stops: Sequence[Sequence[int]] = ()
    num_candidates: int = 0
    deadline: float = float("inf")  # of time.monotonic()
    sequence: SequenceState | None = None
    is_cancelled: bool = False
    num_sent: int = 0  # characters that the event loop knows of
    last_sent_at: float = 0.0
    num_steps: int = 0
    started_at: float = 0.0  # when it joined
    finished_at: float = 0.0
    has_output: asyncio.Event = field(default_factory=asyncio.Event)
    outputs: deque[OutputChunk | Exception] = field(default_factory=deque)

    def put_output(self, piece: OutputChunk | Exception) -> None:
        """In the event loop."""
        self.outputs.append(piece)
        self.has_output.set()

    async def __aiter__(self) -> AsyncIterator[OutputChunk]:
        """Pieces until the one with a finish. Raises Failed."""
        while True:
            while not self.outputs:
                self.has_output.clear()
                await self.has_output.wait()
            piece = self.outputs.popleft()
            if isinstance(piece, Exception):
                raise piece
            yield piece
            if piece.finish_reason:
                return
