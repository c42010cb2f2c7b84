"""Text generation with the network of a run: the library behind `charladder generate`.

model = TextGenerator(open_run(Path("runs/ladder-1")), GenerationConfig(length=200))
for piece in model.stream(b"def "):
    print(piece, end="")
"""

import codecs
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
import torch

from charladder.errors import UserError
from charladder.generation.decoding_config import DecodingConfig
from charladder.generation.distribution import SamplingParams
from charladder.generation.empty_prompt import ids_before_empty_prompt
from charladder.generation.loop import STEP_SECONDS, GenerationLoop
from charladder.generation.sequence import SequenceState, make_random, sample_indices
from charladder.generation.speculative import AutoDrafter, Drafter
from charladder.generation.speculative.factory import DrafterName, make_drafter, open_trained_chain
from charladder.inference.factory import open_runner
from charladder.run import Run, open_data, split_corpus
from charladder.text.encodings import find_codec
from charladder.training.devices import choose_device

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class GenerationConfig:
    """length: the maximum number of characters after each prompt. stops: strings that end a text, excluded from it.
    context: by default that of the network. draft: the drafter, which affects the speed and not the distribution;
    `none` and `auto` use coupled sampling, so that a seed gives the same text with both, although `auto` depends on
    measured time. precision: of weights, keys and values; bfloat16 halves the memory traffic and rounds the network.
    unknown: how letters of a prompt outside the alphabet are handled (default: as the run does). batch_size: prompts
    that are continued together. encoding: of the output of a run with the byte alphabet; invalid bytes become U+FFFD.
    """

    length: int = 400
    sampling: SamplingParams = field(default_factory=SamplingParams)
    seed: int = 0
    stops: tuple[bytes, ...] = ()
    context: int | None = None
    draft: DrafterName = "auto"
    draft_length: int | None = None
    precision: Precision = "float32"
    device: str = "auto"
    unknown: str | None = None
    batch_size: int = 16
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        check_limits(self.length, self.seed, self.stops)
        find_codec(self.encoding)
        if not 1 <= self.batch_size <= 4096:
            raise UserError(field="batch_size", value=self.batch_size, rule="it must be between 1 and 4,096 prompts")


def check_limits(length: int, seed: int, stops: Sequence[bytes]) -> None:
    """Raises UserError for an invalid length, seed or stop string."""
    if length < 0:
        raise UserError(field="length", value=length, rule="it must be at least 0")
    if not 0 <= seed < 1 << 63:
        raise UserError(field="seed", value=seed, rule="it must be at least 0 and below 2^63")
    if not all(stops):
        raise UserError(field="stop", value="", rule="it must have at least one character")


@dataclass(frozen=True)
class Prompt:
    """data: bytes, or UTF-8 if the alphabet of the run has letters. length, seed, stops: override GenerationConfig.
    where: names the prompt in error messages."""

    data: bytes
    length: int | None = None
    seed: int | None = None
    stops: tuple[bytes, ...] | None = None
    where: str = "the prompt"

    def __post_init__(self) -> None:
        try:
            check_limits(self.length or 0, self.seed or 0, self.stops or ())
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from None


@dataclass(frozen=True)
class GeneratedText:
    """A text without its prompt. ids: its characters. nats: their log-probabilities before temperature, top-k, top-p
    and min-p. finish_reason: `length` or `stop`."""

    text: str
    ids: list[int]
    nats: list[float]
    finish_reason: str

    @property
    def characters(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class _Request:
    """A text to generate. prompt, stops: ids. sample: the number of earlier texts with the same seed and prompt."""

    prompt: tuple[int, ...]
    length: int
    seed: int
    sample: int
    stops: list[list[int]]


def load_training_text(run: Run, report: Callable[[str], None]) -> np.ndarray | None:
    """The ids of the training text of a run; calls `report` and returns None if it cannot be opened. None for an
    imported run, which has no text."""
    if not run.has_text:
        return None
    try:
        corpus = open_data(run)
    except UserError as error:
        command = f"charladder evaluate {run.command_arguments} --data DATA"
        report(f"{error} ({command} puts it into the cache); drafts are copied from the generated text only")
        return None
    begin, end = split_corpus(run.recipe, corpus).train
    return corpus.ids_N[begin:end]


class TextGenerator:
    """Generates text with the network of a run. Loops share the KV caches, so only the last one started can be used.

    report: called with a sentence if something optional is missing. training_text: returns the ids of the training
    text, or None. Raises UserError if the run does not support the configuration.
    """

    def __init__(
        self,
        run: Run,
        settings: GenerationConfig | None = None,
        report: Callable[[str], None] = lambda sentence: None,
        training_text: Callable[[], np.ndarray | None] | None = None,
    ) -> None:
        self.run, self.settings, self.report = run, settings or GenerationConfig(), report
        self.unknown = self.settings.unknown or run.recipe.text.unknown
        self.dtype = torch.bfloat16 if self.settings.precision == "bfloat16" else torch.float32
        self.stop_ids = self.encode_stops(self.settings.stops, "the stop string")
        self.network = run.load_network().to(choose_device(self.settings.device))
        self.runners = {1: open_runner(self.network, 1, self.settings.context, self.dtype)}
        self.drafters: dict[int, Drafter] = {}
        self.passes = self.characters = 0
        self.seconds = self.pass_seconds = 0.0
        self.draft = self.settings.draft
        self.fetch_training_text = training_text or partial(load_training_text, run, report)
        coupled = self.settings.sampling.coupled or self.settings.draft in ("auto", "none")
        self.sampling = replace(self.settings.sampling, coupled=coupled)

    def encode(self, prompt: bytes, where: str = "the prompt") -> list[int]:
        """Converts a prompt to ids. Raises UserError for letters outside the alphabet."""
        return self.run.alphabet.encode(prompt, where, self.unknown).tolist()

    def encode_stops(self, stops: Sequence[bytes], where: str) -> list[list[int]]:
        return [self.run.alphabet.encode(stop, where, "error").tolist() for stop in dict.fromkeys(stops)]

    def make_decoder(self) -> codecs.IncrementalDecoder:
        """An incremental decoder from the bytes of the run's alphabet to text."""
        encoding = "utf-8" if self.run.alphabet.letters else self.settings.encoding
        return codecs.getincrementaldecoder(encoding)("replace")

    def start(self, prompts: Sequence[Sequence[int]]) -> GenerationLoop:
        """Starts a loop that continues these prompts (ids) according to the configuration."""
        s, keys = self.settings, [tuple(prompt) for prompt in prompts]
        samples = zip(keys, sample_indices(keys), strict=True)
        return self._start_loop([_Request(ids, s.length, s.seed, n, self.stop_ids) for ids, n in samples])

    def _start_loop(self, requests: Sequence[_Request]) -> GenerationLoop:
        count, s = len(requests), self.settings
        if count not in self.runners:
            self.runners = {1: self.runners[1]}  # caches are large
            self.runners[count] = open_runner(self.network, count, s.context, self.dtype, self.runners[1])
            self.drafters = {n: drafter for n, drafter in self.drafters.items() if n == 1}
        runner = self.runners[count]
        if count not in self.drafters:  # reused, because its counts and measurements stay valid
            self.drafters[count] = make_drafter(
                s.draft, self.run, runner, self.sampling, s.draft_length, self.fetch_training_text, self.dtype,
                self.report, open_chain=partial(open_trained_chain, self.run, runner, self.dtype, self.network),
            )  # fmt: skip
        drafter = self.drafters[count]
        loop, config = GenerationLoop(runner, drafter=drafter), DecodingConfig(self.sampling, drafter)
        sequences = []
        for slot, request in enumerate(requests):
            prompt = [*request.prompt] or ids_before_empty_prompt(self.run.alphabet)
            random = make_random(request.seed, request.sample, request.prompt)
            sequences.append(SequenceState(slot, prompt, request.length, random, self.sampling.coupled, request.stops))
        loop.add(sequences, [config] * len(sequences))
        return loop

    def _make_requests(self, prompts: Sequence[bytes | Prompt], samples: int) -> list[_Request]:
        """Requests `samples` texts for each prompt. Raises UserError for letters outside the alphabet."""
        requests: list[_Request] = []
        for number, prompt in enumerate(prompts, 1):
            given = prompt if isinstance(prompt, Prompt) else Prompt(prompt, where=f"prompt {number}")
            ids = tuple(self.encode(given.data, given.where))
            length = self.settings.length if given.length is None else given.length
            seed = self.settings.seed if given.seed is None else given.seed
            stops = self.stop_ids if given.stops is None else self.encode_stops(given.stops, f"{given.where}: stop")
            requests += [_Request(ids, length, seed, 0, stops)] * samples
        samples_before = sample_indices([(request.seed, request.prompt) for request in requests])
        return [replace(request, sample=n) for request, n in zip(requests, samples_before, strict=True)]

    def generate(self, prompts: Sequence[bytes | Prompt], samples: int = 1) -> Iterator[GeneratedText]:
        """Yields `samples` texts for each prompt, in order; `batch_size` of them are generated together.

        A text does not depend on the other prompts; several texts of the same prompt and seed differ.
        """
        requests = self._make_requests(prompts, samples)
        for first in range(0, len(requests), self.settings.batch_size):
            began = time.perf_counter()
            loop = self._start_loop(requests[first : first + self.settings.batch_size])
            loop.run()
            self._add_to_totals(loop, time.perf_counter() - began)
            for sequence in loop.sequences:
                yield self._to_generated_text(sequence)

    def stream(self, prompt: bytes | Prompt) -> Iterator[str]:
        """Yields the text after one prompt in pieces: complete Unicode characters that no stop string can remove."""
        for _, piece in self.stream_with_state(prompt):
            yield piece

    def stream_with_state(self, prompt: bytes | Prompt) -> Iterator[tuple[SequenceState, str]]:
        """As `stream`; each piece comes with the state of the sequence."""
        began = time.perf_counter()
        prompt = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
        loop = self._start_loop(self._make_requests([prompt], 1))
        (sequence,) = loop.sequences
        decoder, done = self.make_decoder(), 0
        while True:
            ids = np.array(sequence.ids[done : sequence.safe_length], np.int64)
            piece, done = decoder.decode(self.run.alphabet.decode(ids)), sequence.safe_length
            if sequence.finish_reason:
                self._add_to_totals(loop, time.perf_counter() - began)
                yield sequence, piece + decoder.decode(b"", final=True)
                return
            if piece:
                yield sequence, piece
            loop.step(STEP_SECONDS)

    def _to_generated_text(self, sequence: SequenceState) -> GeneratedText:
        text = self.make_decoder().decode(self.run.alphabet.decode(np.array(sequence.ids, np.int64)), final=True)
        return GeneratedText(text, sequence.ids, sequence.nats, sequence.finish_reason or "")

    def _add_to_totals(self, loop: GenerationLoop, seconds: float) -> None:
        self.passes += loop.passes
        self.characters += loop.pass_characters
        self.seconds += seconds
        self.pass_seconds += loop.seconds
        drafter = loop.drafter
        self.draft = f"auto: {drafter.best_name}" if isinstance(drafter, AutoDrafter) else drafter.name

    @property
    def accepted_per_pass(self) -> float:
        """Characters per pass of a sequence, on average."""
        return self.characters / self.passes if self.passes else 1.0
