"""OpenAI's `/v1/completions`, on the engine."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from charladder.errors import UserError
from charladder.generation.distribution import SamplingParams
from charladder.generation.empty_prompt import ids_before_empty_prompt
from charladder.generation.sequence import sample_indices
from charladder.serving.api_errors import Refused, refuse
from charladder.serving.event_stream import given_up
from charladder.serving.limits import Limits
from charladder.serving.requests import Failed, Full, Piece, Ticket
from charladder.serving.scheduler import Engine
from charladder.serving.schemas import CompletionRequest
from charladder.serving.scoring import Looker
from charladder.serving.tokens import Decoder, Symbols


@dataclass
class Writing:
    """One choice while it is written: what of it has been told, and where its text stands."""

    index: int
    ticket: Ticket
    prompt: str | None  # what `echo` puts before
    decoder: Decoder
    top: int | None
    draft: str
    characters: int = 0
    finish: str | None = None


@dataclass
class Completions:
    """Answers requests for texts of `model`."""

    model: str
    engine: Engine
    looker: Looker
    symbols: Symbols
    limits: Limits
    drafters: list[str]
    created: int = field(default_factory=lambda: int(time.time()))

    def read(self, asked: CompletionRequest) -> list[Writing]:
        """The choices that are asked for, not begun. Raises Refused."""
        self.check(asked)
        prompts = self.prompts(asked)
        n = 1 if asked.n is None else asked.n
        if len(prompts) * n > self.limits.choices:
            raise Refused(
                400, f"n times the prompts are {len(prompts) * n} texts; ask for {self.limits.choices} at most", "n"
            )
        length = 16 if asked.max_tokens is None else asked.max_tokens
        if length > self.limits.completion:
            raise Refused(400, f"max_tokens is {length}; it must be at most {self.limits.completion:,}", "max_tokens")
        try:
            sampling = SamplingParams(
                *(1.0 if asked.temperature is None else asked.temperature, asked.top_k or 0),
                *(1.0 if asked.top_p is None else asked.top_p, asked.min_p or 0.0), coupled=True,
            )  # fmt: skip
            stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
            spelled = [self.symbols.spell(stop, "stop") for stop in dict.fromkeys(stops)]
        except UserError as error:
            raise refuse(error, "stop") from None
        stop_ids = [ids for ids in spelled if ids is not None]  # others cannot occur
        if any(not 1 <= len(stop) <= self.limits.stop for stop in stop_ids):
            raise Refused(
                400, f"stop has an empty text, or one of more than {self.limits.stop} characters; send 1 to "
                f"{self.limits.stop} of them", "stop"
            )  # fmt: skip
        if asked.logprobs is not None:
            # The prompt's count too, where it is echoed.
            symbols = sum(length + (len(ids) if asked.echo else 0) for ids in prompts) * n * (asked.logprobs + 1)
            if symbols > self.limits.numbers:
                raise Refused(
                    400, f"the answer would have {symbols:,} log-probabilities; ask for {self.limits.numbers:,} at "
                    "most", "logprobs"
                )  # fmt: skip
        seed = secrets.randbits(62) if asked.seed is None else asked.seed
        deadline = time.monotonic() + self.limits.seconds
        draft = asked.draft or "auto"
        writings = []
        each = [ids for ids in prompts for _ in range(n)]
        for number, (ids, sample) in enumerate(zip(each, sample_indices([*map(tuple, each)]), strict=True)):
            ticket = Ticket(
                ids, length, sampling, draft, seed, sample, ids_before_empty_prompt(self.symbols.alphabet), stop_ids,
                asked.logprobs or 0, deadline,
            )  # fmt: skip
            # Offsets begin after the prompt, with and without `echo`.
            text = self.symbols.decode(ids) if asked.echo or asked.logprobs is not None else ""
            decoder = Decoder(self.symbols, len(text))
            writings.append(Writing(number, ticket, text if asked.echo else None, decoder, asked.logprobs, draft))
        return writings

    def check(self, asked: CompletionRequest) -> None:
        """Raises Refused for what there is not."""
        if asked.model not in (None, self.model):
            raise Refused(
                404, f"there is no model {printable(asked.model)!r} here; it is called {self.model!r}", "model",
                "model_not_found"
            )  # fmt: skip
        if asked.suffix:
            raise Refused(400, "suffix is not supported: the network reads what stands before, not after", "suffix")
        for name in ("presence_penalty", "frequency_penalty"):
            if getattr(asked, name):
                raise Refused(400, f"{name} is not supported; leave it out, or at 0", name)
        if asked.logit_bias:
            raise Refused(400, "logit_bias is not supported; leave it out", "logit_bias")
        if asked.best_of is not None and asked.best_of != (asked.n or 1):
            raise Refused(400, "best_of is not supported; leave it out", "best_of")
        if asked.draft not in (None, *self.drafters):
            raise Refused(
                400,
                f"this run has nothing to draft {asked.draft!r} with; there are {', '.join(self.drafters)}",
                "draft",
            )
        if asked.stream_options is not None and not asked.stream:
            raise Refused(400, "stream_options are for a stream; send `stream: true` too", "stream_options")

    def prompts(self, asked: CompletionRequest) -> list[list[int]]:
        """Every prompt as ids. Raises Refused."""
        given: Any = "" if asked.prompt is None else asked.prompt
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            given = [given]
        if not given:
            raise Refused(400, "prompt is an empty list; send a text, or tokens", "prompt")
        found = []
        for one in given:
            try:
                ids = self.symbols.encode(one, "prompt") if isinstance(one, str) else self.symbols.check(one, "prompt")
            except UserError as error:
                raise refuse(error, "prompt") from None
            if len(ids) > self.limits.prompt:
                raise Refused(
                    400, f"a prompt has {len(ids):,} characters; send {self.limits.prompt:,} at most", "prompt",
                    "context_length_exceeded"
                )  # fmt: skip
            found.append(ids)
        return found

    def submit(self, writings: Sequence[Writing]) -> None:
        """Raises Refused where there is no place."""
        try:
            self.engine.submit([w.ticket for w in writings])
        except Full:
            raise Refused(429, "too many texts are being written; try again later") from None

    async def echoes(self, writings: Sequence[Writing], n: int) -> list[dict[str, Any] | None]:
        """For each choice the log-probabilities of its prompt, where it is echoed with them; of the first symbol there
        is none. Raises Refused."""
        found: list[dict[str, Any] | None] = []
        for writing in writings[::n]:
            ids = writing.ticket.prompt
            if writing.top is None or writing.prompt is None:
                found += [None] * n
                continue
            likeliest: list[list[tuple[int, float]]] = []
            nats: list[float | None] = [None] * len(ids)
            if len(ids) > 1:
                deadline = writing.ticket.deadline
                nats[1:], likeliest = await self.looker.run(deadline, self.looker.prompt, ids, writing.top)
            offsets = Decoder(self.symbols).add(ids, [False] * len(ids), True).offsets
            found += [self.describe(writing, ids, nats, [[], *likeliest] if ids else [], offsets)] * n
        return found

    def describe(
        self,
        writing: Writing,
        ids: Sequence[int],
        nats: Sequence[float | None],
        likeliest: Sequence[list[tuple[int, float]]],
        offsets: list[int],
    ) -> dict[str, Any] | None:
        """OpenAI's `logprobs` of these symbols."""
        if writing.top is None:
            return None
        tops = None
        if writing.top:
            tops = [
                None if said is None else {self.symbols.token(n): nats for n, nats in [*some, (one, said)]}
                for one, said, some in zip(ids, nats, likeliest, strict=True)
            ]
        return {
            "tokens": [self.symbols.token(one) for one in ids],
            "token_logprobs": list(nats),
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def choice(self, writing: Writing, piece: Piece) -> dict[str, Any]:
        """A piece as OpenAI's `choices` have it."""
        spelled = writing.decoder.add(piece.ids, piece.drafted, piece.finish is not None)
        writing.characters += len(piece.ids)
        writing.finish = "length" if piece.finish == "time" else piece.finish
        ours: dict[str, Any] = {"characters": len(piece.ids), "drafted": spelled.marked}
        if piece.finish:
            ours |= {"ended_by": piece.finish} | speeds(writing)
        return {
            "index": writing.index,
            "text": spelled.text,
            "logprobs": self.describe(writing, piece.ids, piece.nats, piece.likeliest, spelled.offsets),
            "finish_reason": writing.finish,
            "charladder": ours,
        }

    def envelope(self) -> dict[str, Any]:
        number = f"cmpl-{secrets.token_hex(12)}"
        return {"id": number, "object": "text_completion", "created": int(time.time()), "model": self.model}

    def usage(self, writings: Sequence[Writing], n: int) -> dict[str, int]:
        """Symbols; a prompt counts once, however many texts go on from it."""
        prompt = sum(len(w.ticket.prompt) for w in writings[::n])
        written = sum(w.characters for w in writings)
        return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}

    async def whole(self, writings: Sequence[Writing], n: int) -> dict[str, Any]:
        """The answer in one, with `n` texts for each prompt. Raises Refused; when it is cancelled, so are its texts."""
        echoes = await self.echoes(writings, n)
        self.submit(writings)
        collecting = [asyncio.ensure_future(self.collect(writing)) for writing in writings]
        try:
            pieces = await asyncio.gather(*collecting)
        except Failed as error:
            raise Refused(error.status, error.sentence) from None
        finally:
            self.engine.cancel([w.ticket for w in writings])
            await given_up(collecting)

        def choices() -> list[dict[str, Any]]:
            together = zip(writings, echoes, pieces, strict=True)
            return [joined(writing.prompt, echo, self.choice(writing, piece)) for writing, echo, piece in together]

        made = await asyncio.to_thread(choices)  # long texts take a while, and others are waiting for the event loop
        return self.envelope() | {"choices": made, "usage": self.usage(writings, n)}

    async def collect(self, writing: Writing) -> Piece:
        """All pieces of a text as one."""
        ids, nats, drafted, likeliest, finish = [], [], [], [], None
        async for piece in writing.ticket:
            ids += piece.ids
            nats += piece.nats
            drafted += piece.drafted
            likeliest += piece.likeliest
            finish = piece.finish
        return Piece(ids, nats, drafted, likeliest, finish)

    async def events(
        self, asked: CompletionRequest, writings: Sequence[Writing], echoes: Sequence[dict[str, Any] | None]
    ) -> AsyncIterator[tuple[dict[str, Any], bool]]:
        """The answer piece by piece, as the chunks of a stream: an object each, and whether it is the last. The texts
        have been submitted."""
        envelope = self.envelope()
        wanted = asked.stream_options is not None and asked.stream_options.include_usage
        empty: dict[str, Any] = {"usage": None} if wanted else {}
        for writing, echo in zip(writings, echoes, strict=True):
            if writing.prompt:
                ours = {"characters": 0, "drafted": "0" * len(writing.prompt)}
                choice = {"index": writing.index, "text": writing.prompt, "logprobs": echo, "finish_reason": None}
                yield envelope | empty | {"choices": [choice | {"charladder": ours}]}, False
        left = len(writings)
        async for writing, piece in merged(writings):
            left -= piece.finish is not None
            yield envelope | empty | {"choices": [self.choice(writing, piece)]}, not (left or wanted)
        if wanted:
            yield envelope | {"choices": [], "usage": self.usage(writings, asked.n or 1)}, True


def speeds(writing: Writing) -> dict[str, Any]:
    """How fast a text that has ended was written, from when it joined the batch."""
    ticket, sequence = writing.ticket, writing.ticket.sequence
    seconds = max(1e-9, ticket.ended - ticket.began)
    return {
        "seconds": seconds,
        "characters_per_second": writing.characters / seconds if sequence is not None else 0.0,
        "accepted_per_pass": sequence.emitted / sequence.passes if sequence is not None and sequence.passes else 1.0,
        "draft": writing.draft,
    }


async def merged(writings: Sequence[Writing]) -> AsyncIterator[tuple[Writing, Piece]]:
    """The pieces of several texts, as they come. Raises Failed."""
    if len(writings) == 1:
        async for piece in writings[0].ticket:
            yield writings[0], piece
        return
    pieces: asyncio.Queue[tuple[Writing, Piece | Failed]] = asyncio.Queue()

    async def drain(writing: Writing) -> None:
        try:
            async for piece in writing.ticket:
                pieces.put_nowait((writing, piece))
        except Failed as error:
            pieces.put_nowait((writing, error))

    tasks = [asyncio.ensure_future(drain(writing)) for writing in writings]
    try:
        left = len(writings)
        while left:
            writing, piece = await pieces.get()
            if isinstance(piece, Failed):
                raise piece
            left -= piece.finish is not None
            yield writing, piece
    finally:
        await given_up(tasks)


def joined(prompt: str | None, echo: dict[str, Any] | None, choice: dict[str, Any]) -> dict[str, Any]:
    """A choice with what `echo` puts before it."""
    if prompt is None:
        return choice
    said = choice["logprobs"]
    if echo is not None and said is not None:
        said = {name: None if part is None else part + said[name] for name, part in echo.items()}
    ours = choice["charladder"] | {"drafted": "0" * len(prompt) + choice["charladder"]["drafted"]}
    return choice | {"text": prompt + choice["text"], "logprobs": said, "charladder": ours}


def printable(text: str | None) -> str:
    return (text or "").encode("utf-8", "replace").decode()[:80]
