"""OpenAI's `/v1/completions` on the scheduler: requests are checked, generated and sent whole or as events."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from charladder.generation.distribution import SamplingParams
from charladder.generation.empty_prompt import ids_before_empty_prompt
from charladder.generation.sequence import sample_indices
from charladder.serving.api_errors import APIError
from charladder.serving.completion_output import (
    ChoiceState,
    format_choice,
    format_echo,
    format_logprobs,
    format_usage,
    prepend_prompt,
)
from charladder.serving.event_stream import cancel_and_wait
from charladder.serving.generation_request import GenerationError, GenerationRequest, OutputChunk, QueueFull
from charladder.serving.limits import Limits
from charladder.serving.scheduler import Scheduler
from charladder.serving.schemas import CompletionRequest
from charladder.serving.scoring import Scorer
from charladder.serving.tokens import IncrementalDecoder, Tokenizer


@dataclass
class Completions:
    """The completions of one served model."""

    model: str
    scheduler: Scheduler
    scorer: Scorer
    tokenizer: Tokenizer
    limits: Limits
    drafters: list[str]
    created: int = field(default_factory=lambda: int(time.time()))

    def prepare(self, body: CompletionRequest) -> list[ChoiceState]:
        """The choices of a request, not yet submitted. Raises APIError and UserError for a wrong field."""
        self._check_supported(body)
        prompts = self._encode_prompts(body)
        n = 1 if body.n is None else body.n
        if len(prompts) * n > self.limits.choices:
            raise APIError(
                400, f"n times the prompts are {len(prompts) * n} texts; ask for {self.limits.choices} at most", "n"
            )
        length = 16 if body.max_tokens is None else body.max_tokens
        if length > self.limits.max_tokens:
            raise APIError(400, f"max_tokens is {length}; it must be at most {self.limits.max_tokens:,}", "max_tokens")
        sampling = SamplingParams(
            *(1.0 if body.temperature is None else body.temperature, body.top_k or 0),
            *(1.0 if body.top_p is None else body.top_p, body.min_p or 0.0), coupled=True,
        )  # fmt: skip
        stops = self._encode_stops(body)
        if body.logprobs is not None:
            # The prompt's log-probabilities count too, if they are echoed.
            symbols = sum(length + (len(ids) if body.echo else 0) for ids in prompts)
            self._check_logprobs(symbols * n * (body.logprobs + 1))
        seed = secrets.randbits(62) if body.seed is None else body.seed
        deadline = time.monotonic() + self.limits.seconds
        draft = body.draft or "auto"
        choices = []
        repeated = [ids for ids in prompts for _ in range(n)]
        for index, (ids, sample) in enumerate(zip(repeated, sample_indices([*map(tuple, repeated)]), strict=True)):
            request = GenerationRequest(
                ids, length, sampling, draft, seed, sample, ids_before_empty_prompt(self.tokenizer.alphabet), stops,
                body.logprobs or 0, deadline,
            )  # fmt: skip
            # Offsets count from the beginning of the prompt, with and without `echo`.
            text = self.tokenizer.decode(ids) if body.echo or body.logprobs is not None else ""
            decoder = IncrementalDecoder(self.tokenizer, len(text))
            choices.append(ChoiceState(index, request, text if body.echo else None, decoder, body.logprobs, draft))
        return choices

    def _check_supported(self, body: CompletionRequest) -> None:
        """Raises APIError for a field that this service does not support."""
        if body.model not in (None, self.model):
            shown = (body.model or "").encode("utf-8", "replace").decode()[:80]
            raise APIError(
                404, f"there is no model {shown!r} here; it is called {self.model!r}", "model", "model_not_found"
            )
        if body.suffix:
            raise APIError(400, "suffix is not supported: the network reads the text before, not after", "suffix")
        for name in ("presence_penalty", "frequency_penalty"):
            if getattr(body, name):
                raise APIError(400, f"{name} is not supported; leave it out, or at 0", name)
        if body.logit_bias:
            raise APIError(400, "logit_bias is not supported; leave it out", "logit_bias")
        if body.best_of is not None and body.best_of != (body.n or 1):
            raise APIError(400, "best_of is not supported; leave it out", "best_of")
        if body.draft not in (None, *self.drafters):
            sentence = f"this run has nothing to draft {body.draft!r} with; use one of {', '.join(self.drafters)}"
            raise APIError(400, sentence, "draft")
        if body.stream_options is not None and not body.stream:
            raise APIError(400, "stream_options are for a stream; send `stream: true` too", "stream_options")

    def _check_logprobs(self, count: int) -> None:
        if count > self.limits.logprobs:
            sentence = f"the answer would have {count:,} log-probabilities; ask for {self.limits.logprobs:,} at most"
            raise APIError(400, sentence, "logprobs")

    def _encode_prompts(self, body: CompletionRequest) -> list[list[int]]:
        tokenizer = self.tokenizer
        given: Any = "" if body.prompt is None else body.prompt
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            given = [given]
        if not given:
            raise APIError(400, "prompt is an empty list; send a text, or tokens", "prompt")
        prompts = []
        for prompt in given:
            ids = (
                tokenizer.encode(prompt, "prompt") if isinstance(prompt, str) else tokenizer.check_ids(prompt, "prompt")
            )
            if len(ids) > self.limits.prompt:
                raise APIError(
                    400, f"a prompt has {len(ids):,} characters; send {self.limits.prompt:,} at most", "prompt",
                    "context_length_exceeded"
                )  # fmt: skip
            prompts.append(ids)
        return prompts

    def _encode_stops(self, body: CompletionRequest) -> list[list[int]]:
        """The stop strings as ids. One with a letter outside the alphabet cannot occur and is left out."""
        stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
        encoded = [self.tokenizer.encode_exact(stop, "stop") for stop in dict.fromkeys(stops)]
        stop_ids = [ids for ids in encoded if ids is not None]
        if any(not 1 <= len(ids) <= self.limits.stop for ids in stop_ids):
            raise APIError(
                400, f"stop has an empty text, or one of more than {self.limits.stop} characters; send 1 to "
                f"{self.limits.stop} of them", "stop"
            )  # fmt: skip
        return stop_ids

    def submit(self, choices: Sequence[ChoiceState]) -> None:
        """Queues the choices. Raises APIError if the queue is full."""
        try:
            self.scheduler.submit([choice.request for choice in choices])
        except QueueFull:
            raise APIError(429, "too many texts are being written; try again later") from None

    async def prompt_logprobs(self, choices: Sequence[ChoiceState], n: int) -> list[dict[str, Any] | None]:
        """The `logprobs` of each choice's echoed prompt; None without `echo` or `logprobs`. The first symbol has none.

        Raises APIError.
        """
        formatted: list[dict[str, Any] | None] = []
        for choice in choices[::n]:
            ids = choice.request.prompt
            if choice.logprobs is None or choice.prompt is None:
                formatted += [None] * n
                continue
            candidates: list[list[tuple[int, float]]] = []
            nats: list[float | None] = [None] * len(ids)
            if len(ids) > 1:
                deadline = choice.request.deadline
                nats[1:], candidates = await self.scorer.run(
                    deadline, self.scorer.prompt_logprobs, ids, choice.logprobs
                )
            offsets = IncrementalDecoder(self.tokenizer).add(ids, [False] * len(ids), True).offsets
            top = [[], *candidates] if ids else []
            formatted += [format_logprobs(self.tokenizer, choice, ids, nats, top, offsets)] * n
        return formatted

    async def complete(self, choices: Sequence[ChoiceState], n: int) -> dict[str, Any]:
        """The whole answer, with `n` choices for each prompt. Raises APIError. Cancelling it cancels its texts."""
        prompt_logprobs = await self.prompt_logprobs(choices, n)
        self.submit(choices)
        collecting = [asyncio.ensure_future(_collect(choice)) for choice in choices]
        try:
            chunks = await asyncio.gather(*collecting)
        except GenerationError as error:
            raise APIError(error.status, error.message) from None
        finally:
            self.scheduler.cancel([choice.request for choice in choices])
            await cancel_and_wait(collecting)

        def format_choices() -> list[dict[str, Any]]:
            return [
                prepend_prompt(choice.prompt, logprobs, format_choice(self.tokenizer, choice, chunk))
                for choice, logprobs, chunk in zip(choices, prompt_logprobs, chunks, strict=True)
            ]

        formatted = await asyncio.to_thread(format_choices)  # long texts would block the event loop
        return self._envelope() | {"choices": formatted, "usage": format_usage(choices, n)}

    async def stream_events(
        self,
        body: CompletionRequest,
        choices: Sequence[ChoiceState],
        prompt_logprobs: Sequence[dict[str, Any] | None],
    ) -> AsyncIterator[tuple[dict[str, Any], bool]]:
        """The events of a stream, each with whether it is the last. The choices have been submitted."""
        envelope = self._envelope()
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        no_usage: dict[str, Any] = {"usage": None} if with_usage else {}
        for choice, logprobs in zip(choices, prompt_logprobs, strict=True):
            if choice.prompt:
                yield envelope | no_usage | {"choices": [format_echo(choice, logprobs)]}, False
        unfinished = len(choices)
        async for choice, chunk in _merge_outputs(choices):
            unfinished -= chunk.finish_reason is not None
            event = envelope | no_usage | {"choices": [format_choice(self.tokenizer, choice, chunk)]}
            yield event, not (unfinished or with_usage)
        if with_usage:
            yield envelope | {"choices": [], "usage": format_usage(choices, body.n or 1)}, True

    def _envelope(self) -> dict[str, Any]:
        identifier = f"cmpl-{secrets.token_hex(12)}"
        return {"id": identifier, "object": "text_completion", "created": int(time.time()), "model": self.model}


async def _collect(choice: ChoiceState) -> OutputChunk:
    """All chunks of a text as one."""
    ids, nats, drafted, candidates, finish_reason = [], [], [], [], None
    async for chunk in choice.request:
        ids += chunk.ids
        nats += chunk.nats
        drafted += chunk.drafted
        candidates += chunk.top_candidates
        finish_reason = chunk.finish_reason
    return OutputChunk(ids, nats, drafted, candidates, finish_reason)


async def _merge_outputs(choices: Sequence[ChoiceState]) -> AsyncIterator[tuple[ChoiceState, OutputChunk]]:
    """The chunks of several texts, as they are generated. Raises GenerationError."""
    if len(choices) == 1:
        async for chunk in choices[0].request:
            yield choices[0], chunk
        return
    outputs: asyncio.Queue[tuple[ChoiceState, OutputChunk | GenerationError]] = asyncio.Queue()

    async def forward(choice: ChoiceState) -> None:
        try:
            async for chunk in choice.request:
                outputs.put_nowait((choice, chunk))
        except GenerationError as error:
            outputs.put_nowait((choice, error))

    tasks = [asyncio.ensure_future(forward(choice)) for choice in choices]
    try:
        unfinished = len(choices)
        while unfinished:
            choice, chunk = await outputs.get()
            if isinstance(chunk, GenerationError):
                raise chunk
            unfinished -= chunk.finish_reason is not None
            yield choice, chunk
    finally:
        await cancel_and_wait(tasks)
