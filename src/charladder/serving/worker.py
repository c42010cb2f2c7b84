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
from charladder.serving.api_errors import SHUTTING_DOWN
from charladder.serving.decoding_configs import DecodingConfigs
from charladder.serving.requests import GenerationError, GenerationRequest, OutputChunk

_MIN_FLUSH_SECONDS = 0.04  # seconds between two messages about a text, at least: a message costs more than a character
_MAX_OUTPUTS_PER_SECOND = 300  # a second, of all texts together: they take time from decoding
_UNBUFFERED_STEPS = 1  # steps for which whoever has just joined is told at once
_INTERNAL_ERROR = "the service failed at this text; its operator finds more in its log"
RequestOutput = tuple[GenerationRequest, OutputChunk | Exception]


class Worker:
    """Decodes with `reader`, which nobody else may use. wait: waits for work, and gives the texts that join now, or
    None at the end. tell: hands messages on."""

    def __init__(
        self,
        runner: ModelRunner,
        decoding_configs: DecodingConfigs,
        wait_for_requests: Callable[["Worker"], list[GenerationRequest] | None],
        deliver: Callable[[Sequence[RequestOutput]], None],
        num_active: Callable[[], int],
    ) -> None:
        self.loop, self.decoding_configs, self.wait_for_requests, self.deliver, self.num_active = (
            GenerationLoop(runner),
            decoding_configs,
            wait_for_requests,
            deliver,
            num_active,
        )
        self.active: list[GenerationRequest] = []
        self.free_slots = list(range(runner.slots))
        self.generated_characters = 0  # written, of all texts
        self.thread = threading.Thread(target=self.run, name="batch", daemon=True)

    def run(self) -> None:
        while (beginning := self.wait_for_requests(self)) is not None:
            try:
                self.add(beginning)
                self.step()
            except UserError as error:  # a network whose numbers are broken
                self.fail_all(GenerationError(str(error)))
            except Exception:
                traceback.print_exc()
                self.fail_all(GenerationError(_INTERNAL_ERROR))
        self.fail_all(GenerationError(SHUTTING_DOWN, 503))

    def add(self, requests: Sequence[GenerationRequest]) -> None:
        """These join the batch."""
        now, sequences, configs = time.monotonic(), [], []
        for ticket in requests:
            try:
                config = self.decoding_configs.get(ticket.sampling, ticket.draft)  # which may take a moment
            except (UserError, OSError) as error:  # of this text alone: its drafting heads are gone, say
                print(f"charladder: {error}", file=sys.stderr)  # for the operator alone: it may name files
                self.deliver([(ticket, GenerationError(_INTERNAL_ERROR))])
                continue
            except Exception:
                traceback.print_exc()
                self.deliver([(ticket, GenerationError(_INTERNAL_ERROR))])
                continue
            ticket.started_at = now
            chance = make_random(ticket.seed, ticket.sample_index, ticket.prompt)
            ticket.sequence = SequenceState(
                self.free_slots.pop(), ticket.prompt or ticket.empty_prompt_ids, ticket.length, chance,
                ticket.sampling.coupled, ticket.stops, ticket.num_candidates,
            )  # fmt: skip
            sequences.append(ticket.sequence)
            configs.append(config)
            self.active.append(ticket)
        if sequences:
            self.loop.add(sequences, configs)

    def step(self) -> None:
        self.loop.step(STEP_SECONDS)
        now, messages, ended = time.monotonic(), [], []
        flush = max(_MIN_FLUSH_SECONDS, self.num_active() / _MAX_OUTPUTS_PER_SECOND)
        for ticket in self.active:
            sequence = ticket.sequence
            assert sequence is not None
            ticket.num_steps += 1
            finish = sequence.finish_reason or ("time" if now > ticket.deadline else None)
            new = sequence.settled - ticket.num_sent
            if finish or (new and (ticket.num_steps <= _UNBUFFERED_STEPS or now - ticket.last_sent_at >= flush)):
                part = slice(ticket.num_sent, sequence.settled)
                piece = OutputChunk(
                    sequence.ids[part], sequence.nats[part], sequence.drafted[part], sequence.candidates[part], finish
                )
                messages.append((ticket, piece))
                self.generated_characters += new
                ticket.num_sent, ticket.last_sent_at = sequence.settled, now
            if finish:
                ticket.finished_at = now
                ended.append(ticket)
        self.remove(ended)
        self.deliver(messages)

    def remove(self, requests: Sequence[GenerationRequest]) -> None:
        """Their places in the batch are free."""
        if not requests:
            return
        sequences = [t.sequence for t in requests if t.sequence is not None]
        self.loop.remove(sequences)
        self.free_slots += [sequence.slot for sequence in sequences]
        gone = set(map(id, requests))
        self.active = [t for t in self.active if id(t) not in gone]

    def fail_all(self, error: GenerationError) -> None:
        """Tells everybody who is being served."""
        failing = list(self.active)
        self.remove(failing)
        self.deliver([(ticket, error) for ticket in failing])
