"""The request for one generated text, and the queue of its output."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from charladder.generation.distribution import SamplingParams
from charladder.generation.sequence import SequenceState
from charladder.generation.speculative.factory import DrafterName


class QueueFull(Exception):
    """The scheduler's queue is full."""


class GenerationError(Exception):
    """A text cannot be generated. `message` is for the client; `status` is that of the response."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.message, self.status = message, status


@dataclass(frozen=True)
class OutputChunk:
    """The symbols generated since the chunk before: ids, log-probabilities in nats, whether each was an accepted draft,
    and the most likely candidates of each position. finish_reason: None, `length`, `stop`, or `time` after the
    deadline."""

    ids: list[int]
    nats: list[float]
    drafted: list[bool]
    top_candidates: list[list[tuple[int, float]]]
    finish_reason: str | None


@dataclass(eq=False, slots=True)
class GenerationRequest:
    """A text to generate, and its progress. sample_index: which of the texts with the same prompt it is.
    empty_prompt_ids: what the network reads if the prompt is empty. num_candidates: most likely symbols to record at
    each position. deadline: of time.monotonic(). num_sent: symbols sent to the event loop."""

    prompt: list[int]
    length: int
    sampling: SamplingParams
    draft: DrafterName
    seed: int
    sample_index: int
    empty_prompt_ids: list[int]
    stops: Sequence[Sequence[int]] = ()
    num_candidates: int = 0
    deadline: float = float("inf")
    sequence: SequenceState | None = None
    is_cancelled: bool = False
    num_sent: int = 0
    last_sent_at: float = 0.0
    num_steps: int = 0
    started_at: float = 0.0
    finished_at: float = 0.0
    has_output: asyncio.Event = field(default_factory=asyncio.Event)
    outputs: deque[OutputChunk | Exception] = field(default_factory=deque)

    def put_output(self, output: OutputChunk | Exception) -> None:
        """Adds an output. Called in the event loop."""
        self.outputs.append(output)
        self.has_output.set()

    async def __aiter__(self) -> AsyncIterator[OutputChunk]:
        """Chunks up to the one with a finish reason. Raises GenerationError."""
        while True:
            while not self.outputs:
                self.has_output.clear()
                await self.has_output.wait()
            output = self.outputs.popleft()
            if isinstance(output, Exception):
                raise output
            yield output
            if output.finish_reason:
                return
