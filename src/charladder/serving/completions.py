"""OpenAI's `/v1/completions`, on the engine."""

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
from charladder.serving.event_stream import cancel_and_wait
from charladder.serving.limits import Limits
from charladder.serving.requests import GenerationError, GenerationRequest, OutputChunk, QueueFull
from charladder.serving.scheduler import Scheduler
from charladder.serving.schemas import CompletionRequest
from charladder.serving.scoring import Scorer
from charladder.serving.tokens import IncrementalDecoder, Tokenizer


@dataclass
class ChoiceState:
    """One choice while it is written: what of it has been told, and where its text stands."""

    index: int
    request: GenerationRequest
    prompt: str | None  # what `echo` puts before
    decoder: IncrementalDecoder
    logprobs: int | None
    draft: str
    characters: int = 0
    finish_reason: str | None = None


@dataclass
class Completions:
    """Answers requests for texts of `model`."""

    model: str
    scheduler: Scheduler
    scorer: Scorer
    tokenizer: Tokenizer
    limits: Limits
    drafters: list[str]
    created: int = field(default_factory=lambda: int(time.time()))

    def prepare(self, body: CompletionRequest) -> list[ChoiceState]:
        """The choices that are asked for, not begun. Raises Refused."""
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
        stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
        spelled = [self.tokenizer.encode_exact(stop, "stop") for stop in dict.fromkeys(stops)]
        stop_ids = [ids for ids in spelled if ids is not None]  # others cannot occur
        if any(not 1 <= len(stop) <= self.limits.stop for stop in stop_ids):
            raise APIError(
                400, f"stop has an empty text, or one of more than {self.limits.stop} characters; send 1 to "
                f"{self.limits.stop} of them", "stop"
            )  # fmt: skip
        if body.logprobs is not None:
            # The prompt's count too, where it is echoed.
            symbols = sum(length + (len(ids) if body.echo else 0) for ids in prompts) * n * (body.logprobs + 1)
            if symbols > self.limits.logprobs:
                raise APIError(
                    400, f"the answer would have {symbols:,} log-probabilities; ask for {self.limits.logprobs:,} at "
                    "most", "logprobs"
                )  # fmt: skip
        seed = secrets.randbits(62) if body.seed is None else body.seed
        deadline = time.monotonic() + self.limits.seconds
        draft = body.draft or "auto"
        writings = []
        each = [ids for ids in prompts for _ in range(n)]
        for number, (ids, sample) in enumerate(zip(each, sample_indices([*map(tuple, each)]), strict=True)):
            ticket = GenerationRequest(
                ids, length, sampling, draft, seed, sample, ids_before_empty_prompt(self.tokenizer.alphabet), stop_ids,
                body.logprobs or 0, deadline,
            )  # fmt: skip
            # Offsets begin after the prompt, with and without `echo`.
            text = self.tokenizer.decode(ids) if body.echo or body.logprobs is not None else ""
            decoder = IncrementalDecoder(self.tokenizer, len(text))
            writings.append(ChoiceState(number, ticket, text if body.echo else None, decoder, body.logprobs, draft))
        return writings

    def _check_supported(self, body: CompletionRequest) -> None:
        """Raises Refused for what there is not."""
        if body.model not in (None, self.model):
            raise APIError(
                404, f"there is no model {_printable(body.model)!r} here; it is called {self.model!r}", "model",
                "model_not_found"
            )  # fmt: skip
        if body.suffix:
            raise APIError(400, "suffix is not supported: the network reads what stands before, not after", "suffix")
        for name in ("presence_penalty", "frequency_penalty"):
            if getattr(body, name):
                raise APIError(400, f"{name} is not supported; leave it out, or at 0", name)
        if body.logit_bias:
            raise APIError(400, "logit_bias is not supported; leave it out", "logit_bias")
        if body.best_of is not None and body.best_of != (body.n or 1):
            raise APIError(400, "best_of is not supported; leave it out", "best_of")
        if body.draft not in (None, *self.drafters):
            raise APIError(
                400,
                f"this run has nothing to draft {body.draft!r} with; there are {', '.join(self.drafters)}",
                "draft",
            )
        if body.stream_options is not None and not body.stream:
            raise APIError(400, "stream_options are for a stream; send `stream: true` too", "stream_options")

    def _encode_prompts(self, body: CompletionRequest) -> list[list[int]]:
        """Every prompt as ids. Raises Refused."""
        tokenizer = self.tokenizer
        given: Any = "" if body.prompt is None else body.prompt
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            given = [given]
        if not given:
            raise APIError(400, "prompt is an empty list; send a text, or tokens", "prompt")
        found = []
        for one in given:
            ids = tokenizer.encode(one, "prompt") if isinstance(one, str) else tokenizer.check_ids(one, "prompt")
            if len(ids) > self.limits.prompt:
                raise APIError(
                    400, f"a prompt has {len(ids):,} characters; send {self.limits.prompt:,} at most", "prompt",
                    "context_length_exceeded"
                )  # fmt: skip
            found.append(ids)
        return found

    def submit(self, choices: Sequence[ChoiceState]) -> None:
        """Raises Refused where there is no place."""
        try:
            self.scheduler.submit([w.request for w in choices])
        except QueueFull:
            raise APIError(429, "too many texts are being written; try again later") from None

    async def prompt_logprobs(self, choices: Sequence[ChoiceState], n: int) -> list[dict[str, Any] | None]:
        """For each choice the log-probabilities of its prompt, where it is echoed with them; of the first symbol there
        is none. Raises Refused."""
        found: list[dict[str, Any] | None] = []
        for writing in choices[::n]:
            ids = writing.request.prompt
            if writing.logprobs is None or writing.prompt is None:
                found += [None] * n
                continue
            likeliest: list[list[tuple[int, float]]] = []
            nats: list[float | None] = [None] * len(ids)
            if len(ids) > 1:
                deadline = writing.request.deadline
                nats[1:], likeliest = await self.scorer.run(
                    deadline, self.scorer.prompt_logprobs, ids, writing.logprobs
                )
            offsets = IncrementalDecoder(self.tokenizer).add(ids, [False] * len(ids), True).offsets
            found += [self._format_logprobs(writing, ids, nats, [[], *likeliest] if ids else [], offsets)] * n
        return found

    def _format_logprobs(
        self,
        choice: ChoiceState,
        ids: Sequence[int],
        nats: Sequence[float | None],
        likeliest: Sequence[list[tuple[int, float]]],
        offsets: list[int],
    ) -> dict[str, Any] | None:
        """OpenAI's `logprobs` of these symbols."""
        if choice.logprobs is None:
            return None
        tops = None
        if choice.logprobs:
            tops = [
                None if said is None else {self.tokenizer.token_string(n): nats for n, nats in [*some, (one, said)]}
                for one, said, some in zip(ids, nats, likeliest, strict=True)
            ]
        return {
            "tokens": [self.tokenizer.token_string(one) for one in ids],
            "token_logprobs": list(nats),
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _format_choice(self, choice: ChoiceState, piece: OutputChunk) -> dict[str, Any]:
        """A piece as OpenAI's `choices` have it."""
        spelled = choice.decoder.add(piece.ids, piece.drafted, piece.finish_reason is not None)
        choice.characters += len(piece.ids)
        choice.finish_reason = "length" if piece.finish_reason == "time" else piece.finish_reason
        ours: dict[str, Any] = {"characters": len(piece.ids), "drafted": spelled.marks}
        if piece.finish_reason:
            ours |= {"ended_by": piece.finish_reason} | _speed(choice)
        return {
            "index": choice.index,
            "text": spelled.text,
            "logprobs": self._format_logprobs(choice, piece.ids, piece.nats, piece.top_candidates, spelled.offsets),
            "finish_reason": choice.finish_reason,
            "charladder": ours,
        }

    def _envelope(self) -> dict[str, Any]:
        number = f"cmpl-{secrets.token_hex(12)}"
        return {"id": number, "object": "text_completion", "created": int(time.time()), "model": self.model}

    def _usage(self, choices: Sequence[ChoiceState], n: int) -> dict[str, int]:
        """Symbols; a prompt counts once, however many texts go on from it."""
        prompt = sum(len(w.request.prompt) for w in choices[::n])
        written = sum(w.characters for w in choices)
        return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}

    async def complete(self, choices: Sequence[ChoiceState], n: int) -> dict[str, Any]:
        """The answer in one, with `n` texts for each prompt. Raises Refused; when it is cancelled, so are its texts."""
        echoes = await self.prompt_logprobs(choices, n)
        self.submit(choices)
        collecting = [asyncio.ensure_future(self._collect(writing)) for writing in choices]
        try:
            pieces = await asyncio.gather(*collecting)
        except GenerationError as error:
            raise APIError(error.status, error.message) from None
        finally:
            self.scheduler.cancel([w.request for w in choices])
            await cancel_and_wait(collecting)

        def format_choices() -> list[dict[str, Any]]:
            together = zip(choices, echoes, pieces, strict=True)
            return [
                _prepend_prompt(writing.prompt, echo, self._format_choice(writing, piece))
                for writing, echo, piece in together
            ]

        made = await asyncio.to_thread(
            format_choices
        )  # long texts take a while, and others are waiting for the event loop
        return self._envelope() | {"choices": made, "usage": self._usage(choices, n)}

    async def _collect(self, choice: ChoiceState) -> OutputChunk:
        """All pieces of a text as one."""
        ids, nats, drafted, likeliest, finish = [], [], [], [], None
        async for piece in choice.request:
            ids += piece.ids
            nats += piece.nats
            drafted += piece.drafted
            likeliest += piece.top_candidates
            finish = piece.finish_reason
        return OutputChunk(ids, nats, drafted, likeliest, finish)

    async def stream_events(
        self, body: CompletionRequest, choices: Sequence[ChoiceState], echoes: Sequence[dict[str, Any] | None]
    ) -> AsyncIterator[tuple[dict[str, Any], bool]]:
        """The answer piece by piece, as the chunks of a stream: an object each, and whether it is the last. The texts
        have been submitted."""
        envelope = self._envelope()
        wanted = body.stream_options is not None and body.stream_options.include_usage
        empty: dict[str, Any] = {"usage": None} if wanted else {}
        for writing, echo in zip(choices, echoes, strict=True):
            if writing.prompt:
                ours = {"characters": 0, "drafted": "0" * len(writing.prompt)}
                choice = {"index": writing.index, "text": writing.prompt, "logprobs": echo, "finish_reason": None}
                yield envelope | empty | {"choices": [choice | {"charladder": ours}]}, False
        left = len(choices)
        async for writing, piece in _merge_outputs(choices):
            left -= piece.finish_reason is not None
            yield envelope | empty | {"choices": [self._format_choice(writing, piece)]}, not (left or wanted)
        if wanted:
            yield envelope | {"choices": [], "usage": self._usage(choices, body.n or 1)}, True


def _speed(choice: ChoiceState) -> dict[str, Any]:
    """How fast a text that has ended was written, from when it joined the batch."""
    ticket, sequence = choice.request, choice.request.sequence
    seconds = max(1e-9, ticket.finished_at - ticket.started_at)
    return {
        "seconds": seconds,
        "characters_per_second": choice.characters / seconds if sequence is not None else 0.0,
        "accepted_per_pass": sequence.emitted / sequence.passes if sequence is not None and sequence.passes else 1.0,
        "draft": choice.draft,
    }


async def _merge_outputs(choices: Sequence[ChoiceState]) -> AsyncIterator[tuple[ChoiceState, OutputChunk]]:
    """The pieces of several texts, as they come. Raises Failed."""
    if len(choices) == 1:
        async for piece in choices[0].request:
            yield choices[0], piece
        return
    pieces: asyncio.Queue[tuple[ChoiceState, OutputChunk | GenerationError]] = asyncio.Queue()

    async def drain(writing: ChoiceState) -> None:
        try:
            async for piece in writing.request:
                pieces.put_nowait((writing, piece))
        except GenerationError as error:
            pieces.put_nowait((writing, error))

    tasks = [asyncio.ensure_future(drain(writing)) for writing in choices]
    try:
        left = len(choices)
        while left:
            writing, piece = await pieces.get()
            if isinstance(piece, GenerationError):
                raise piece
            left -= piece.finish_reason is not None
            yield writing, piece
    finally:
        await cancel_and_wait(tasks)


def _prepend_prompt(prompt: str | None, echo: dict[str, Any] | None, choice: dict[str, Any]) -> dict[str, Any]:
    """A choice with what `echo` puts before it."""
    if prompt is None:
        return choice
    said = choice["logprobs"]
    if echo is not None and said is not None:
        said = {name: None if part is None else part + said[name] for name, part in echo.items()}
    ours = choice["charladder"] | {"drafted": "0" * len(prompt) + choice["charladder"]["drafted"]}
    return choice | {"text": prompt + choice["text"], "logprobs": said, "charladder": ours}


def _printable(text: str | None) -> str:
    return (text or "").encode("utf-8", "replace").decode()[:80]
