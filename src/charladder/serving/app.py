"""The service: what is asked at which path, and who answers it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, TypeVar

import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from charladder import __version__
from charladder.errors import UserError
from charladder.inference.factory import open_runner
from charladder.inference.packed_cpu import PackedRunner
from charladder.inference.runner import ModelRunner
from charladder.model.transformer import Transformer
from charladder.run import Run
from charladder.serving import api_errors, openapi, schemas
from charladder.serving.access_control import LOCAL, Access
from charladder.serving.api_errors import ANSWERS, Refused, refuse
from charladder.serving.completions import Completions
from charladder.serving.decoding_configs import Manners
from charladder.serving.event_stream import EventStream, attended
from charladder.serving.json_encoding import encode
from charladder.serving.limits import Limits
from charladder.serving.metrics import Observed, Requests, gauge
from charladder.serving.middleware import Guard
from charladder.serving.request_bodies import parse
from charladder.serving.scheduler import Engine
from charladder.serving.scoring import Looker
from charladder.serving.tokens import Symbols
from charladder.training.devices import choose_device

# Products in a pass from which on all threads share it. The event loop wants a core now and then, and to wait for a
# thread that has lost its core takes longer than a small pass does (docs/decisions/0043).
SHARED_FROM = 20_000_000
LEAST = 8  # streams of such a batch: what Python does for a step, it does for all of them
SMALL = 1 << 14  # bytes of a body that is read in the event loop, which takes a millisecond
BODIES = {
    "/v1/completions": schemas.CompletionRequest,
    "/score": schemas.ScoreRequest,
    "/layers": schemas.LayersRequest,
    "/tokenize": schemas.TokenizeRequest,
    "/detokenize": schemas.DetokenizeRequest,
}
Asked = TypeVar("Asked", bound=schemas.Asked)
Read = TypeVar("Read")
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "png": "image/png"}


@dataclass
class Service:
    """Everything that answers: a run's network, packed for decoding, and whole for looking."""

    name: str
    run: Run
    engine: Engine
    looker: Looker
    symbols: Symbols
    completions: Completions
    limits: Limits
    token: str | None
    began: float
    reading: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "reading"))

    async def read(self, request: Request, model: type[Asked], further: Callable[[Asked], Read]) -> tuple[Asked, Read]:
        """The body of a request, and what `further` makes of it: in a thread of its own where the body is large, one
        such body at a time. Raises Refused."""

        def work() -> tuple[Asked, Read]:
            asked = parse(data, model)
            return asked, further(asked)

        data = await request.body()
        if len(data) <= SMALL:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self.reading, work)

    def text(self, asked: schemas.Text) -> list[int]:
        """What is to be looked at, as ids. Raises Refused."""
        if (asked.text is None) == (asked.ids is None):
            raise Refused(400, "send either `text` or `ids`", "text")
        field = "ids" if asked.text is None else "text"
        try:
            ids = (
                self.symbols.check(asked.ids or [], field)
                if asked.text is None
                else self.symbols.encode(asked.text, field)
            )
        except UserError as error:
            raise refuse(error, field) from None
        if len(ids) > self.limits.score:
            raise Refused(400, f"the text has {len(ids):,} characters; send {self.limits.score:,} at most", field)
        return ids

    async def look(self, request: Request, *arguments: Any) -> Any:
        """While somebody waits for it. Raises Refused."""
        return await attended(request, self.looker.run(time.monotonic() + self.limits.seconds, *arguments))


def open_service(
    run: Run, limits: Limits, token: str | None = None, precision: str = "float32", device: str = "auto"
) -> Service:
    """Loads a run. Raises UserError where it cannot be served."""
    weights = torch.bfloat16 if precision == "bfloat16" else torch.float32
    network = run.network().to(choose_device(device))
    readers = open_readers(network, limits.streams, weights)
    engine = Engine(readers, limits, lambda reader: Manners(run, reader, weights, lambda: engine.active))
    for reader in readers:
        if isinstance(reader, PackedRunner):
            reader.set_thread_policy(lambda products, reader=reader: products >= SHARED_FROM and engine.alone(reader))
    symbols = Symbols(run.alphabet, run.recipe.text.unknown)
    looker = Looker(run, network, symbols, limits)
    name = run.path.resolve().name
    drafters = engine.batches[0].manners.drafters()
    completions = Completions(name, engine, looker, symbols, limits, drafters)
    return Service(name, run, engine, looker, symbols, completions, limits, token, time.monotonic())


def open_readers(network: Transformer, streams: int, weights: torch.dtype) -> list[ModelRunner]:
    """One for all streams; of a small network one for each core, which then waits for no other: each reads all weights,
    from a cache that they share. Larger ones would come from memory as many times as there are cores."""
    first, cores = open_runner(network, 1, None, weights), max(1, min(streams // LEAST, torch.get_num_threads()))
    small = isinstance(first, PackedRunner) and first.fits_cache
    shares = [streams * (n + 1) // cores - streams * n // cores for n in range(cores)] if small else [streams]
    return [open_runner(network, share, None, weights, first) for share in shares]


def make_app(
    service: Service,
    hosts: tuple[str, ...] | None = LOCAL,
    origins: tuple[str, ...] = (),
    root_path: str = "",
    access_log: bool = False,
) -> Observed:
    """The ASGI application. hosts: names under which it may be addressed; None: any. origins: of pages that may use it
    beside its own. root_path: the path under which a proxy publishes it. access_log: a line on standard error for each
    request."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        yield
        await asyncio.to_thread(service.engine.close)
        service.looker.close()
        service.reading.shutdown(wait=False)

    app = FastAPI(
        title="charladder",
        version=__version__,
        summary="Completions as OpenAI's clients ask for them, scores, and the ladder of a character network",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would lead to http and to the path without a proxy's prefix
        responses=ANSWERS,
    )
    app.add_exception_handler(Refused, api_errors.on_refused)
    app.add_exception_handler(UserError, api_errors.on_bad_input)
    app.add_exception_handler(HTTPException, api_errors.on_http)
    add_looking(app, service)
    add_completions(app, service)
    add_tokenizer(app, service)
    add_page(app)
    requests = add_metrics(app, service)
    document = openapi.describe(app, BODIES, service.token is not None)

    @app.get("/openapi.json", include_in_schema=False)
    async def described(request: Request) -> Response:
        prefix = openapi.prefix_of(request.headers.get("x-forwarded-prefix", root_path))
        return JSONResponse(document | ({"servers": [{"url": prefix}]} if prefix else {}))

    guard = Guard(app, service.limits, Access(hosts, origins, service.token), root_path)
    shared = CORSMiddleware(guard, allow_origins=origins, allow_methods=["GET", "HEAD", "POST"], allow_headers=["*"])
    return Observed(shared if origins else guard, requests, access_log)


def add_completions(app: FastAPI, service: Service) -> None:
    described = {
        "id": service.name,
        "object": "model",
        "created": service.completions.created,
        "owned_by": "charladder",
    }

    @app.post(
        "/v1/completions",
        response_model=None,
        responses={200: {"model": schemas.Completion, "content": {"text/event-stream": {}}}},
    )
    async def complete(request: Request) -> Response:
        """Texts that go on from the prompts: in one, or, with `stream`, as server-sent events."""
        completions = service.completions
        asked, writings = await service.read(request, schemas.CompletionRequest, completions.read)
        if not asked.stream:
            answer = await attended(request, completions.whole(writings, asked.n or 1))
            # A large one takes a while to write: not in the event loop.
            return Response(await asyncio.to_thread(encode, answer), media_type="application/json")
        echoes: list[dict[str, Any] | None] = [None] * len(writings)
        if asked.echo and asked.logprobs is not None:
            echoes = await attended(request, completions.echoes(writings, asked.n or 1))
        completions.submit(writings)
        tickets = [w.ticket for w in writings]
        return EventStream(completions.events(asked, writings, echoes), lambda: service.engine.cancel(tickets))

    @app.get("/v1/models", responses={200: {"model": schemas.Models}}, response_model=None)
    async def models() -> Response:
        """The one model there is."""
        return JSONResponse({"object": "list", "data": [described]})

    @app.get("/v1/models/{name}", responses={200: {"model": schemas.Model}}, response_model=None)
    async def model(name: str) -> Response:
        """The model, if it is called so."""
        if name != service.name:
            raise Refused(
                404, f"there is no model of this name here; it is called {service.name!r}", "model", "model_not_found"
            )
        return JSONResponse(described)


def add_looking(app: FastAPI, service: Service) -> None:
    @app.post("/score", responses={200: {"model": schemas.ScoreAnswer}}, response_model=None)
    async def score(request: Request) -> Response:
        """The surprise, in bits, of every symbol of a text, and of every layer's own prediction of it."""
        asked, ids = await service.read(request, schemas.ScoreRequest, service.text)
        end = len(ids) if asked.end is None else asked.end
        if asked.begin > len(ids):
            raise Refused(400, f"begin is {asked.begin}; the text has {len(ids)} symbols", "begin")
        if not asked.begin <= end <= len(ids):
            raise Refused(400, f"end is {end}; it must be at least {asked.begin} and at most {len(ids)}", "end")
        found = await service.look(request, service.looker.score, ids, asked.begin, end, asked.layers)
        if asked.text is not None:
            found["offsets"] = service.symbols.offsets(asked.text)[asked.begin : end]
        return Response(await asyncio.to_thread(encode, found), media_type="application/json")

    @app.post("/layers", responses={200: {"model": schemas.LayersAnswer}}, response_model=None)
    async def ladder(request: Request) -> Response:
        """What every layer and target expected at a place of a text."""
        asked, ids = await service.read(request, schemas.LayersRequest, service.text)
        if asked.place > len(ids):
            raise Refused(400, f"place is {asked.place}; the text has {len(ids)} symbols", "place")
        return JSONResponse(await service.look(request, service.looker.predictions_at, ids, asked.place))

    @app.get("/health", responses={200: {"model": schemas.Health}}, response_model=None)
    async def health() -> Response:
        """Whether it is up, and what it is doing."""
        engine = service.engine
        streams = {"active": engine.active, "waiting": len(engine.waiting), "limit": service.limits.streams}
        up = time.monotonic() - service.began
        facts = {"status": "ok", "model": service.name, "streams": streams, "characters": engine.characters}
        return JSONResponse(facts | {"uptime_seconds": up})

    @app.get("/about", responses={200: {"model": schemas.About}}, response_model=None)
    async def about() -> Response:
        """What is served, and within which limits."""
        model, limits = service.run.recipe.model, service.limits
        return JSONResponse(
            {
                "model": service.name,
                "alphabet": described_alphabet(service.symbols),
                "layers": model.layers,
                "width": model.width,
                "context": model.context,
                "targets": service.run.recipe.objective.targets,
                "drafters": service.completions.drafters,
                "limits": {"prompt": limits.prompt, "completion": limits.completion, "score": limits.score},
                "token_required": service.token is not None,
            }
        )


def add_tokenizer(app: FastAPI, service: Service) -> None:
    """The alphabet as a remote tokenizer, as vLLM has it: a token is a symbol of the alphabet."""

    @app.post("/tokenize", responses={200: {"model": schemas.TokenizeAnswer}}, response_model=None)
    async def tokenize(request: Request) -> Response:
        """A text as tokens. A text that the alphabet cannot spell is an error, or loses letters, by the run's rule."""

        def read(asked: schemas.TokenizeRequest) -> list[int]:
            try:
                return service.symbols.encode(asked.prompt, "prompt")
            except UserError as error:
                raise refuse(error, "prompt") from None

        asked, ids = await service.read(request, schemas.TokenizeRequest, read)
        answer = {"count": len(ids), "max_model_len": service.run.recipe.model.context, "tokens": ids}
        if asked.return_token_strs:
            answer["token_strs"] = [service.symbols.token(one) for one in ids]
        return Response(await asyncio.to_thread(encode, answer), media_type="application/json")

    @app.post("/detokenize", responses={200: {"model": schemas.DetokenizeAnswer}}, response_model=None)
    async def detokenize(request: Request) -> Response:
        """Tokens as a text; bytes that are not UTF-8 become U+FFFD."""

        def read(asked: schemas.DetokenizeRequest) -> str:
            try:
                return service.symbols.decode(service.symbols.check(asked.tokens, "tokens"))
            except UserError as error:
                raise refuse(error, "tokens") from None

        _, text = await service.read(request, schemas.DetokenizeRequest, read)
        return JSONResponse({"prompt": text})

    @app.get("/tokenizer_info", responses={200: {"model": schemas.TokenizerInfo}}, response_model=None)
    async def tokenizer_info() -> Response:
        """What a client needs to know of the tokenizer."""
        special = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token", "chat_template"))
        own = {
            "tokenizer_class": "charladder",
            "vocab_size": service.symbols.alphabet.size,
            "model_max_length": service.run.recipe.model.context,
        }
        return JSONResponse(own | special)


def add_metrics(app: FastAPI, service: Service) -> Requests:
    """/metrics; returns what counts the requests."""
    known = {path for route in app.routes if "{" not in (path := getattr(route, "path", "{"))}
    requests = Requests(frozenset({*known, "/metrics", "/openapi.json"}))

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_class=Response)
    async def metrics() -> Response:
        """Counters and histograms in Prometheus's text format."""
        engine = service.engine
        lines = [
            *requests.lines(),
            *gauge("charladder_characters_total", "counter", "Characters written.", engine.characters),
            *gauge("charladder_streams_active", "gauge", "Texts that are being written.", engine.active),
            *gauge("charladder_streams_waiting", "gauge", "Texts that wait for a place.", len(engine.waiting)),
            *gauge("charladder_uptime_seconds", "gauge", "Seconds since start.", time.monotonic() - service.began),
        ]
        return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4; charset=utf-8")

    return requests


def described_alphabet(symbols: Symbols) -> dict[str, Any]:
    """kind and size; for an alphabet of letters also all of them, and the rule for characters that it lacks."""
    alphabet = symbols.alphabet
    described: dict[str, Any] = {"kind": alphabet.kind, "size": alphabet.size}
    if alphabet.letters:
        described |= {"letters": "".join(alphabet.letters), "unknown": symbols.unknown}
    return described


def add_page(app: FastAPI) -> None:
    """The explorer page: files that are read once."""
    folder = resources.files("charladder.serving") / "page"
    files = {one.name: one.read_bytes() for one in folder.iterdir() if one.name.rpartition(".")[2] in KINDS}

    def served(name: str) -> Response:
        if name not in files:
            raise Refused(404, "the page has no file of this name")
        return Response(files[name], media_type=KINDS[name.rpartition(".")[2]])

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return served("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        return served(name)
