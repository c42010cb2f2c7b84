"""Texts that are wanted, and the batches that decode them: one for all, or one for each core.

The event loop hands over tickets and hears of what was written; nobody waits for anybody. What a client has not taken
yet lies with its ticket, and is bounded by the length of its text.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from charladder.inference.runner import ModelRunner
from charladder.serving.api_errors import SHUTTING_DOWN
from charladder.serving.decoding_configs import DecodingConfigs
from charladder.serving.limits import Limits
from charladder.serving.requests import GenerationError, GenerationRequest, QueueFull
from charladder.serving.worker import RequestOutput, Worker

_MAX_JOINING_PER_STEP = 8  # texts that join in one step, at most: prompts are read while the others wait


class Scheduler:
    """A batch for each of `readers`, which nobody else may use. manners: of a reader. `start` wants a running event
    loop."""

    def __init__(
        self, runners: Sequence[ModelRunner], limits: Limits, make_configs: Callable[[ModelRunner], DecodingConfigs]
    ) -> None:
        self.limits = limits
        self.waiting: deque[GenerationRequest] = deque()
        self.changed = threading.Condition()
        self.closed = False
        self.loop: asyncio.AbstractEventLoop | None = None
        self.workers = [
            Worker(reader, make_configs(reader), self.wait_for_requests, self.deliver, lambda: self.num_active)
            for reader in runners
        ]

    @property
    def num_active(self) -> int:
        """How many texts are being decoded."""
        return sum(len(batch.active) for batch in self.workers)

    @property
    def generated_characters(self) -> int:
        """Written, of all texts."""
        return sum(batch.generated_characters for batch in self.workers)

    def is_only_active(self, runner: ModelRunner) -> bool:
        """Whether no other batch than that of `reader` decodes anything."""
        return not any(batch.active for batch in self.workers if batch.loop.runner is not runner)

    def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        for batch in self.workers:
            batch.thread.start()

    def close(self) -> None:
        """Ends all texts where they are."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        for batch in self.workers:
            if batch.thread.is_alive():
                batch.thread.join()
        with self.changed:
            failing = list(self.waiting)
            self.waiting.clear()
        self.deliver([(ticket, GenerationError(SHUTTING_DOWN, 503)) for ticket in failing])

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        """All of them, or none. Raises Full."""
        with self.changed:
            if self.closed:
                raise QueueFull
            free = sum(len(batch.free_slots) for batch in self.workers)
            if len(requests) > self.limits.waiting + free - len(self.waiting):
                raise QueueFull
            self.waiting += requests
            self.changed.notify_all()

    def cancel(self, requests: Sequence[GenerationRequest]) -> None:
        """Nobody waits for these any more: their places are free at the next step."""
        with self.changed:
            for ticket in requests:
                ticket.is_cancelled = True
            self.waiting = deque(ticket for ticket in self.waiting if not ticket.is_cancelled)
            self.changed.notify_all()

    def wait_for_requests(self, worker: Worker) -> list[GenerationRequest] | None:
        """What a batch has to do, as soon as there is anything: the texts that join it, if any. All batches get equal
        shares, those with the fewest texts first, so that a text alone always is the first batch's, whose drafter has
        learned from the one before."""
        with self.changed:
            while not self.closed:
                worker.remove([ticket for ticket in worker.active if ticket.is_cancelled])
                self._fail_expired()
                joining = [self.waiting.popleft() for _ in range(self._num_joining(worker))]
                if joining or worker.active:
                    if self.waiting:
                        self.changed.notify_all()  # it may be another's turn now
                    return joining
                self.changed.wait()
            return None

    def _fail_expired(self) -> None:
        """Texts that have waited until their time was over are not begun. Called between two steps: while texts wait,
        others are being decoded."""
        now = time.monotonic()
        late = [ticket for ticket in self.waiting if now > ticket.deadline]
        if late:
            self.waiting = deque(ticket for ticket in self.waiting if now <= ticket.deadline)
            sentence = f"no place became free within {self.limits.seconds:g} seconds; try again later"
            self.deliver([(ticket, GenerationError(sentence, 503)) for ticket in late])

    def _num_joining(self, worker: Worker) -> int:
        """How many of those who wait join a batch now."""
        if not self.waiting:
            return 0
        with_places = [one for one in self.workers if one.free_slots]
        turn = sorted(with_places, key=lambda one: len(one.active))
        if worker not in turn[: len(self.waiting)]:
            return 0
        share = -(-(len(self.waiting) + self.num_active) // len(self.workers))
        return min(len(self.waiting), len(worker.free_slots), max(0, share - len(worker.active)), _MAX_JOINING_PER_STEP)

    def deliver(self, outputs: Sequence[RequestOutput]) -> None:
        """Hands pieces to the event loop, all in one call."""
        if not outputs or self.loop is None:
            return

        def receive() -> None:
            for ticket, piece in outputs:
                ticket.put_output(piece)

        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(receive)
