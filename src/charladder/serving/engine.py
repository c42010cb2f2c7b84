"""One thread that decodes whatever texts are wanted as one batch: they come and go between two steps.

The event loop hands over tickets and hears of what was written; nobody waits for anybody. What a client has not taken
yet lies with its ticket, and is bounded by the length of its text.
"""

import asyncio
import contextlib
import random
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from charladder.errors import BadInput
from charladder.generation.streams import Manner, Stream, Writer
from charladder.model.reading import Reader
from charladder.serving.limits import Limits

FLUSH = 0.04  # seconds between two messages about a text, at least: a message costs more than a character
MESSAGES = 300  # a second, of all texts together: they take time from decoding
UNEXPECTED = "the service failed at this text; its operator finds more in its log"
ADMITTED = 8  # texts that join in one step, at most: prompts are read while the others wait
HURRY = 2  # steps for which whoever has just joined is told at once


class Full(Exception):
    """There is no place for more, now."""


class Failed(Exception):
    """The text cannot be written. The sentence is for whoever asked."""


@dataclass(frozen=True)
class Piece:
    """What has been settled since the piece before: ids, their nats, whether each was an accepted draft, the likeliest
    symbols there. finish: None, `length`, `stop`, or `time` where the time was over."""

    ids: list[int]
    nats: list[float]
    drafted: list[bool]
    likeliest: list[list[tuple[int, float]]]
    finish: str | None


@dataclass(eq=False)
class Ticket:
    """A text that is wanted. `manner`: made when its turn comes, for that may take a moment."""

    prompt: list[int]
    length: int
    manner: Callable[[], Manner]
    seed: str
    stops: Sequence[Sequence[int]] = ()
    top: int = 0
    deadline: float = float("inf")  # of time.monotonic()
    stream: Stream | None = None
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


class Engine:
    """Decodes with `reader`, which nobody else may use. `start` wants a running event loop."""

    def __init__(self, reader: Reader, limits: Limits) -> None:
        self.limits, self.writer = limits, Writer(reader)
        self.waiting: deque[Ticket] = deque()
        self.active: list[Ticket] = []
        self.free = list(range(min(limits.streams, reader.streams)))
        self.characters = 0  # written, of all texts
        self.changed = threading.Condition()
        self.closed = False
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = threading.Thread(target=self.work, name="engine", daemon=True)

    def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread.start()

    def close(self) -> None:
        """Ends all texts where they are."""
        with self.changed:
            self.closed = True
            self.changed.notify()
        if self.thread.is_alive():
            self.thread.join()

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """All of them, or none. Raises Full."""
        with self.changed:
            if self.closed:
                raise Full
            room = self.limits.waiting + len(self.free) - len(self.waiting)
            if len(tickets) > room:
                raise Full
            self.waiting += tickets
            self.changed.notify()

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """Nobody waits for these any more: their places are free at the next step."""
        with self.changed:
            for ticket in tickets:
                ticket.cancelled = True
            self.waiting = deque(ticket for ticket in self.waiting if not ticket.cancelled)
            self.changed.notify()

    def work(self) -> None:
        while True:
            with self.changed:
                while not (self.waiting or self.active or self.closed):
                    self.changed.wait()
                if self.closed:
                    break
                self.drop([t for t in self.active if t.cancelled])
                beginning = [self.waiting.popleft() for _ in range(min(len(self.waiting), len(self.free), ADMITTED))]
            try:
                self.begin(beginning)
                self.step()
            except BadInput as error:  # a network whose numbers are broken
                self.fail(Failed(str(error)))
            except Exception:
                traceback.print_exc()
                self.fail(Failed(UNEXPECTED))
        self.fail(Failed("the service is closing"))

    def begin(self, tickets: Sequence[Ticket]) -> None:
        """These join the batch; whoever has waited too long does not."""
        now = time.monotonic()
        self.tell([(ticket, Piece([], [], [], [], "time")) for ticket in tickets if now > ticket.deadline])
        streams = []
        for ticket in tickets:
            if now > ticket.deadline:
                continue
            try:
                manner = ticket.manner()
            except (BadInput, OSError) as error:  # of this text alone: its drafting heads are gone, say
                self.tell([(ticket, Failed(str(error)))])
                continue
            except Exception:
                traceback.print_exc()
                self.tell([(ticket, Failed(UNEXPECTED))])
                continue
            ticket.began = now
            ticket.stream = Stream(
                self.free.pop(), ticket.prompt, ticket.length, random.Random(ticket.seed), manner, ticket.stops,
                ticket.top
            )  # fmt: skip
            streams.append(ticket.stream)
            self.active.append(ticket)
        if streams:
            self.writer.join(streams)

    def step(self) -> None:
        self.writer.step()
        now, messages, ended = time.monotonic(), [], []
        flush = max(FLUSH, len(self.active) / MESSAGES)
        for ticket in self.active:
            stream = ticket.stream
            assert stream is not None
            ticket.steps += 1
            finish = stream.finish or ("time" if now > ticket.deadline else None)
            new = stream.shown - ticket.sent
            if finish or (new and (ticket.steps <= HURRY or now - ticket.told >= flush)):
                part = slice(ticket.sent, stream.shown)
                piece = Piece(stream.ids[part], stream.nats[part], stream.drafted[part], stream.likeliest[part], finish)
                messages.append((ticket, piece))
                self.characters += new
                ticket.sent, ticket.told = stream.shown, now
            if finish:
                ticket.ended = now
                ended.append(ticket)
        self.drop(ended)
        self.tell(messages)

    def drop(self, tickets: Sequence[Ticket]) -> None:
        """Their places in the batch are free."""
        if not tickets:
            return
        streams = [t.stream for t in tickets if t.stream is not None]
        self.writer.leave(streams)
        self.free += [stream.number for stream in streams]
        gone = set(map(id, tickets))
        self.active = [t for t in self.active if id(t) not in gone]

    def fail(self, error: Failed) -> None:
        """Tells everybody who is being served, and those who wait if the service ends."""
        with self.changed:
            failing = list(self.active)
            self.drop(failing)
            if self.closed:
                failing += self.waiting
                self.waiting.clear()
        self.tell([(ticket, error) for ticket in failing])

    def tell(self, messages: Sequence[tuple[Ticket, Piece | Exception]]) -> None:
        """Hands pieces to the event loop, all in one call."""
        if not messages or self.loop is None:
            return

        def receive() -> None:
            for ticket, piece in messages:
                ticket.receive(piece)

        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(receive)
