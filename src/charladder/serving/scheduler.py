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
from charladder.serving.api_errors import CLOSING
from charladder.serving.decoding_configs import Manners
from charladder.serving.limits import Limits
from charladder.serving.requests import Failed, Full, Ticket
from charladder.serving.worker import Batch, Message

ADMITTED = 8  # texts that join in one step, at most: prompts are read while the others wait


class Engine:
    """A batch for each of `readers`, which nobody else may use. manners: of a reader. `start` wants a running event
    loop."""

    def __init__(
        self, readers: Sequence[ModelRunner], limits: Limits, manners: Callable[[ModelRunner], Manners]
    ) -> None:
        self.limits = limits
        self.waiting: deque[Ticket] = deque()
        self.changed = threading.Condition()
        self.closed = False
        self.loop: asyncio.AbstractEventLoop | None = None
        self.batches = [Batch(reader, manners(reader), self.wait, self.tell, lambda: self.active) for reader in readers]

    @property
    def active(self) -> int:
        """How many texts are being decoded."""
        return sum(len(batch.active) for batch in self.batches)

    @property
    def characters(self) -> int:
        """Written, of all texts."""
        return sum(batch.characters for batch in self.batches)

    def alone(self, reader: ModelRunner) -> bool:
        """Whether no other batch than that of `reader` decodes anything."""
        return not any(batch.active for batch in self.batches if batch.loop.runner is not reader)

    def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        for batch in self.batches:
            batch.thread.start()

    def close(self) -> None:
        """Ends all texts where they are."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        for batch in self.batches:
            if batch.thread.is_alive():
                batch.thread.join()
        with self.changed:
            failing = list(self.waiting)
            self.waiting.clear()
        self.tell([(ticket, Failed(CLOSING, 503)) for ticket in failing])

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """All of them, or none. Raises Full."""
        with self.changed:
            if self.closed:
                raise Full
            free = sum(len(batch.free) for batch in self.batches)
            if len(tickets) > self.limits.waiting + free - len(self.waiting):
                raise Full
            self.waiting += tickets
            self.changed.notify_all()

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """Nobody waits for these any more: their places are free at the next step."""
        with self.changed:
            for ticket in tickets:
                ticket.cancelled = True
            self.waiting = deque(ticket for ticket in self.waiting if not ticket.cancelled)
            self.changed.notify_all()

    def wait(self, batch: Batch) -> list[Ticket] | None:
        """What a batch has to do, as soon as there is anything: the texts that join it, if any. All batches get equal
        shares, those with the fewest texts first, so that a text alone always is the first batch's, whose drafter has
        learned from the one before."""
        with self.changed:
            while not self.closed:
                batch.drop([ticket for ticket in batch.active if ticket.cancelled])
                self.expire()
                joining = [self.waiting.popleft() for _ in range(self.room(batch))]
                if joining or batch.active:
                    if self.waiting:
                        self.changed.notify_all()  # it may be another's turn now
                    return joining
                self.changed.wait()
            return None

    def expire(self) -> None:
        """Texts that have waited until their time was over are not begun. Called between two steps: while texts wait,
        others are being decoded."""
        now = time.monotonic()
        late = [ticket for ticket in self.waiting if now > ticket.deadline]
        if late:
            self.waiting = deque(ticket for ticket in self.waiting if now <= ticket.deadline)
            sentence = f"no place became free within {self.limits.seconds:g} seconds; try again later"
            self.tell([(ticket, Failed(sentence, 503)) for ticket in late])

    def room(self, batch: Batch) -> int:
        """How many of those who wait join a batch now."""
        if not self.waiting:
            return 0
        with_places = [one for one in self.batches if one.free]
        turn = sorted(with_places, key=lambda one: len(one.active))
        if batch not in turn[: len(self.waiting)]:
            return 0
        share = -(-(len(self.waiting) + self.active) // len(self.batches))
        return min(len(self.waiting), len(batch.free), max(0, share - len(batch.active)), ADMITTED)

    def tell(self, messages: Sequence[Message]) -> None:
        """Hands pieces to the event loop, all in one call."""
        if not messages or self.loop is None:
            return

        def receive() -> None:
            for ticket, piece in messages:
                ticket.receive(piece)

        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(receive)
