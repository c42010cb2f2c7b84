"""One thread that decodes the texts given to it as one batch: they come and go between two steps."""

import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence

from charladder.errors import UserError
from charladder.generation.loop import STEP_SECONDS, GenerationLoop
from charladder.generation.sequence import SequenceState, make_random
from charladder.inference.runner import ModelRunner
from charladder.serving.api_errors import CLOSING
from charladder.serving.decoding_configs import Manners
from charladder.serving.requests import Failed, Piece, Ticket

FLUSH = 0.04  # seconds between two messages about a text, at least: a message costs more than a character
MESSAGES = 300  # a second, of all texts together: they take time from decoding
HURRY = 1  # steps for which whoever has just joined is told at once
UNEXPECTED = "the service failed at this text; its operator finds more in its log"
Message = tuple[Ticket, Piece | Exception]


class Batch:
    """Decodes with `reader`, which nobody else may use. wait: waits for work, and gives the texts that join now, or
    None at the end. tell: hands messages on."""

    def __init__(
        self,
        reader: ModelRunner,
        manners: Manners,
        wait: Callable[["Batch"], list[Ticket] | None],
        tell: Callable[[Sequence[Message]], None],
        company: Callable[[], int],
    ) -> None:
        self.loop, self.manners, self.wait, self.tell, self.company = (
            GenerationLoop(reader),
            manners,
            wait,
            tell,
            company,
        )
        self.active: list[Ticket] = []
        self.free = list(range(reader.slots))
        self.characters = 0  # written, of all texts
        self.thread = threading.Thread(target=self.work, name="batch", daemon=True)

    def work(self) -> None:
        while (beginning := self.wait(self)) is not None:
            try:
                self.begin(beginning)
                self.step()
            except UserError as error:  # a network whose numbers are broken
                self.fail(Failed(str(error)))
            except Exception:
                traceback.print_exc()
                self.fail(Failed(UNEXPECTED))
        self.fail(Failed(CLOSING, 503))

    def begin(self, tickets: Sequence[Ticket]) -> None:
        """These join the batch."""
        now, sequences, configs = time.monotonic(), [], []
        for ticket in tickets:
            try:
                config = self.manners.of(ticket.sampling, ticket.draft)  # which may take a moment
            except (UserError, OSError) as error:  # of this text alone: its drafting heads are gone, say
                print(f"charladder: {error}", file=sys.stderr)  # for the operator alone: it may name files
                self.tell([(ticket, Failed(UNEXPECTED))])
                continue
            except Exception:
                traceback.print_exc()
                self.tell([(ticket, Failed(UNEXPECTED))])
                continue
            ticket.began = now
            chance = make_random(ticket.seed, ticket.sample, ticket.prompt)
            ticket.sequence = SequenceState(
                self.free.pop(), ticket.prompt or ticket.opening, ticket.length, chance, ticket.sampling.coupled,
                ticket.stops, ticket.top,
            )  # fmt: skip
            sequences.append(ticket.sequence)
            configs.append(config)
            self.active.append(ticket)
        if sequences:
            self.loop.add(sequences, configs)

    def step(self) -> None:
        self.loop.step(STEP_SECONDS)
        now, messages, ended = time.monotonic(), [], []
        flush = max(FLUSH, self.company() / MESSAGES)
        for ticket in self.active:
            sequence = ticket.sequence
            assert sequence is not None
            ticket.steps += 1
            finish = sequence.finish_reason or ("time" if now > ticket.deadline else None)
            new = sequence.settled - ticket.sent
            if finish or (new and (ticket.steps <= HURRY or now - ticket.told >= flush)):
                part = slice(ticket.sent, sequence.settled)
                piece = Piece(
                    sequence.ids[part], sequence.nats[part], sequence.drafted[part], sequence.candidates[part], finish
                )
                messages.append((ticket, piece))
                self.characters += new
                ticket.sent, ticket.told = sequence.settled, now
            if finish:
                ticket.ended = now
                ended.append(ticket)
        self.drop(ended)
        self.tell(messages)

    def drop(self, tickets: Sequence[Ticket]) -> None:
        """Their places in the batch are free."""
        if not tickets:
            return
        sequences = [t.sequence for t in tickets if t.sequence is not None]
        self.loop.remove(sequences)
        self.free += [sequence.slot for sequence in sequences]
        gone = set(map(id, tickets))
        self.active = [t for t in self.active if id(t) not in gone]

    def fail(self, error: Failed) -> None:
        """Tells everybody who is being served."""
        failing = list(self.active)
        self.drop(failing)
        self.tell([(ticket, error) for ticket in failing])
