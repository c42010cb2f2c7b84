"""OpenAI's `/v1/completions`, on the engine."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import Request

from charladder.errors import BadInput
from charladder.generation.sampling import Sampling
from charladder.serving.engine import Engine, Failed, Full, Piece, Ticket
from charladder.serving.limits import Limits
from charladder.serving.looking import Looker
from charladder.serving.manners import Manners
from charladder.serving.problems import Refused, refuse
from charladder.serving.protocol import CompletionRequest
from charladder.serving.symbols import Decoder, Symbols

LISTEN = 0.25  # seconds between two looks at whether the client is still there


@dataclass
class Writing:
    """One choice while it is written: what of it has been told, and where its text stands."""

    index: int
    ticket: Ticket
    prompt: str | None  # what `echo` puts before
    decoder: Decoder
    top: int | None
    text_offset: int = 0
    characters: int = 0
    finish: str | None = None


@dataclass
class Completions:
    """Answers requests for texts of `model`."""

    model: str
    engine: Engine
    manners: Manners
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
            sampling = Sampling(
                *(1.0 if asked.temperature is None else asked.temperature, asked.top_k or 0),
                *(1.0 if asked.top_p is None else asked.top_p, asked.min_p or 0.0), race=True,
            )  # fmt: skip
            stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
            stop_ids = [self.symbols.encode(stop, "stop") for stop in dict.fromkeys(stops)]
        except BadInput as error:
            raise refuse(error) from None
        if any(not stop for stop in stop_ids):
            raise Refused(400, "stop has an empty text; send at least one character", "stop")
        seed = secrets.randbits(62) if asked.seed is None else asked.seed
        deadline = time.monotonic() + self.limits.seconds
        manner = partial(self.manners.of, sampling, asked.draft or "auto")
        return [
            Writing(
                place * n + again,
                Ticket(ids, length, manner, f"{seed} {place * n + again}", stop_ids, asked.logprobs or 0, deadline),
                self.symbols.decode(ids) if asked.echo else None,
                self.symbols.decoder(),
                asked.logprobs,
            )
            for place, ids in enumerate(prompts)
            for again in range(n)
        ]

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
            except BadInput as error:
                raise Refused(400, refuse(error).sentence, "prompt") from None
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

    async def echoed(self, writing: Writing) -> dict[str, Any] | None:
        """Log-probabilities of a prompt that is echoed; of its first symbol there is none. Raises Refused."""
        ids = writing.ticket.prompt
        if writing.top is None or writing.prompt is None:
            return None
        likeliest: list[list[tuple[int, float]]] = []
        nats: list[float | None] = [None] * len(ids)
        if len(ids) > 1:
            nats[1:], likeliest = await self.looker.run(self.looker.prompt, ids, writing.top)
        return self.describe(writing, ids, nats, [[], *likeliest] if ids else [])

    def describe(
        self,
        writing: Writing,
        ids: Sequence[int],
        nats: Sequence[float | None],
        likeliest: Sequence[list[tuple[int, float]]],
    ) -> dict[str, Any] | None:
        """OpenAI's `logprobs` of these symbols, which go on from where the choice stands."""
        if writing.top is None:
            return None
        offsets = []
        for one in ids:
            offsets.append(writing.text_offset)
            begins = self.symbols.alphabet.letters or (one & 0xC0) != 0x80
            writing.text_offset += 1 if begins else 0
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
        text, marked = writing.decoder.add_marked(piece.ids, piece.drafted, piece.finish is not None)
        writing.characters += len(piece.ids)
        writing.finish = "length" if piece.finish == "time" else piece.finish
        ours: dict[str, Any] = {"characters": len(piece.ids), "drafted": marked}
        if piece.finish:
            ticket = writing.ticket
            seconds = max(1e-9, time.monotonic() - ticket.began) if ticket.began else 0.0
            ours |= {
                "ended_by": piece.finish,
                "seconds": seconds,
                "characters_per_second": writing.characters / seconds if seconds else 0.0,
                "accepted_per_pass": (writing.characters - 1) / ticket.steps if ticket.steps else 1.0,
                "draft": ticket.manner.args[1] if isinstance(ticket.manner, partial) else "",
            }
        return {
            "index": writing.index,
            "text": text,
            "logprobs": self.describe(writing, piece.ids, piece.nats, piece.likeliest),
            "finish_reason": writing.finish,
            "charladder": ours,
        }

    def envelope(self, number: str) -> dict[str, Any]:
        return {"id": number, "object": "text_completion", "created": int(time.time()), "model": self.model}

    def usage(self, writings: Sequence[Writing], n: int) -> dict[str, int]:
        """Symbols; a prompt counts once, however many texts go on from it."""
        prompt = sum(len(w.ticket.prompt) for w in writings[::n])
        written = sum(w.characters for w in writings)
        return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}

    async def whole(self, asked: CompletionRequest, request: Request) -> dict[str, Any]:
        """The answer in one. Raises Refused; when the client goes, so do its texts."""
        writings = self.read(asked)
        tickets = [w.ticket for w in writings]
        echoes = [await self.echoed(w) for w in writings]
        self.submit(writings)
        try:
            collecting = asyncio.ensure_future(asyncio.gather(*(self.collect(w) for w in writings)))
            try:
                while not (await asyncio.wait([collecting], timeout=LISTEN))[0]:
                    if await request.is_disconnected():
                        raise Refused(499, "the client has gone")
                pieces = collecting.result()
            finally:
                collecting.cancel()
        except Failed as error:
            raise Refused(500, str(error)) from None
        finally:
            self.engine.cancel(tickets)
        choices = []
        for writing, echo, piece in zip(writings, echoes, pieces, strict=True):
            choice = self.choice(writing, piece)
            choices.append(joined(writing.prompt, echo, choice))
        return self.envelope(f"cmpl-{secrets.token_hex(12)}") | {
            "choices": choices, "usage": self.usage(writings, asked.n or 1)
        }  # fmt: skip

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

    async def events(self, asked: CompletionRequest, writings: Sequence[Writing]) -> AsyncIterator[dict[str, Any]]:
        """The answer piece by piece, as the chunks of a stream: an object each. The texts have been submitted."""
        envelope = self.envelope(f"cmpl-{secrets.token_hex(12)}")
        wanted = asked.stream_options is not None and asked.stream_options.include_usage
        empty: dict[str, Any] = {"usage": None} if wanted else {}
        for writing in writings:
            if writing.prompt:
                echo = await self.echoed(writing)
                ours = {"characters": 0, "drafted": "0" * len(writing.prompt)}
                choice = {"index": writing.index, "text": writing.prompt, "logprobs": echo, "finish_reason": None}
                yield envelope | empty | {"choices": [choice | {"charladder": ours}]}
        async for writing, piece in merged(writings):
            yield envelope | empty | {"choices": [self.choice(writing, piece)]}
        if wanted:
            yield envelope | {"choices": [], "usage": self.usage(writings, asked.n or 1)}


async def merged(writings: Sequence[Writing]) -> AsyncIterator[tuple[Writing, Piece]]:
    """The pieces of several texts, as they come."""
    if len(writings) == 1:
        async for piece in writings[0].ticket:
            yield writings[0], piece
        return
    pieces: asyncio.Queue[tuple[Writing, Piece | Exception | None]] = asyncio.Queue()

    async def drain(writing: Writing) -> None:
        try:
            async for piece in writing.ticket:
                pieces.put_nowait((writing, piece))
            pieces.put_nowait((writing, None))
        except Failed as error:
            pieces.put_nowait((writing, error))

    tasks = [asyncio.ensure_future(drain(writing)) for writing in writings]
    try:
        left = len(writings)
        while left:
            writing, piece = await pieces.get()
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                left -= 1
            else:
                yield writing, piece
    finally:
        for task in tasks:
            task.cancel()


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
