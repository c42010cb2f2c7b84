"""A thread that decodes texts as one batch. Texts are added and removed between two steps."""

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
from charladder.serving.generation_request import GenerationError, GenerationRequest, OutputChunk

_MIN_FLUSH_SECONDS = 0.04  # between two outputs of a text, because an output takes longer than a character
_MAX_OUTPUTS_PER_SECOND = 300  # of all texts together, because outputs delay decoding
_UNBUFFERED_STEPS = 1  # first steps of a text, whose output is sent immediately
_INTERNAL_ERROR = "the service failed to generate this text; see its log"
RequestOutput = tuple[GenerationRequest, OutputChunk | Exception]


class Worker:
    """Decodes with `runner`, which must not be used elsewhere. wait_for_requests: blocks until there is work and
    returns the new requests; None at the end. deliver: sends outputs to the event loop. num_active: the number of texts
    of all workers."""

    def __init__(
        self,
        runner: ModelRunner,
        decoding_configs: DecodingConfigs,
        wait_for_requests: Callable[["Worker"], list[GenerationRequest] | None],
        deliver: Callable[[Sequence[RequestOutput]], None],
        num_active: Callable[[], int],
    ) -> None:
        self.loop = GenerationLoop(runner)
        self.decoding_configs, self.wait_for_requests = decoding_configs, wait_for_requests
        self.deliver, self.num_active = deliver, num_active
        self.active: list[GenerationRequest] = []
        self.free_slots = list(range(runner.slots))
        self.generated_characters = 0
        self.thread = threading.Thread(target=self.run, name="worker", daemon=True)

    def run(self) -> None:
        """Decodes until `wait_for_requests` returns None. An error fails all active requests."""
        while (joining := self.wait_for_requests(self)) is not None:
            try:
                self.add(joining)
                self.step()
            except UserError as error:  # logits are not finite
                self.fail_all(GenerationError(str(error)))
            except Exception:
                traceback.print_exc()
                self.fail_all(GenerationError(_INTERNAL_ERROR))
        self.fail_all(GenerationError(SHUTTING_DOWN, 503))

    def add(self, requests: Sequence[GenerationRequest]) -> None:
        """Adds requests to the batch."""
        now, sequences, configs = time.monotonic(), [], []
        for request in requests:
            try:
                config = self.decoding_configs.get(request.sampling, request.draft)
            except (UserError, OSError) as error:  # only this text fails, for example for missing heads
                print(f"charladder: {error}", file=sys.stderr)  # not sent to the client: it may name files
                self.deliver([(request, GenerationError(_INTERNAL_ERROR))])
                continue
            except Exception:
                traceback.print_exc()
                self.deliver([(request, GenerationError(_INTERNAL_ERROR))])
                continue
            request.started_at = now
            random = make_random(request.seed, request.sample_index, request.prompt)
            request.sequence = SequenceState(
                self.free_slots.pop(), request.prompt or request.empty_prompt_ids, request.length, random,
                request.sampling.coupled, request.stops, request.num_candidates,
            )  # fmt: skip
            sequences.append(request.sequence)
            configs.append(config)
            self.active.append(request)
        if sequences:
            self.loop.add(sequences, configs)

    def step(self) -> None:
        """Decodes for about STEP_SECONDS, delivers outputs that are due, and removes finished requests."""
        self.loop.step(STEP_SECONDS)
        now, outputs, ended = time.monotonic(), [], []
        flush_interval = max(_MIN_FLUSH_SECONDS, self.num_active() / _MAX_OUTPUTS_PER_SECOND)
        for request in self.active:
            sequence = request.sequence
            assert sequence is not None
            request.num_steps += 1
            finish_reason = sequence.finish_reason or ("time" if now > request.deadline else None)
            new = sequence.safe_length - request.num_sent
            is_due = request.num_steps <= _UNBUFFERED_STEPS or now - request.last_sent_at >= flush_interval
            if finish_reason or (new and is_due):
                part = slice(request.num_sent, sequence.safe_length)
                chunk = OutputChunk(
                    sequence.ids[part],
                    sequence.nats[part],
                    sequence.drafted[part],
                    sequence.candidates[part],
                    finish_reason,
                )
                outputs.append((request, chunk))
                self.generated_characters += new
                request.num_sent, request.last_sent_at = sequence.safe_length, now
            if finish_reason:
                request.finished_at = now
                ended.append(request)
        self.remove(ended)
        self.deliver(outputs)

    def remove(self, requests: Sequence[GenerationRequest]) -> None:
        """Frees the slots of requests."""
        if not requests:
            return
        sequences = [request.sequence for request in requests if request.sequence is not None]
        self.loop.remove(sequences)
        self.free_slots += [sequence.slot for sequence in sequences]
        removed = set(map(id, requests))
        self.active = [request for request in self.active if id(request) not in removed]

    def fail_all(self, error: GenerationError) -> None:
        """Fails all active requests."""
        failing = list(self.active)
        self.remove(failing)
        self.deliver([(request, error) for request in failing])
