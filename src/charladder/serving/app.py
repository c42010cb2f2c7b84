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
from charladder.serving.access_control import LOCAL_HOSTS, AccessControl
from charladder.serving.api_errors import ERROR_RESPONSES, APIError
from charladder.serving.completions import Completions
from charladder.serving.decoding_configs import DecodingConfigs
from charladder.serving.event_stream import EventStream, run_while_connected
from charladder.serving.json_encoding import encode_json
from charladder.serving.limits import Limits
from charladder.serving.metrics import MetricsMiddleware, RequestMetrics, metric_lines
from charladder.serving.middleware import RequestMiddleware
from charladder.serving.request_bodies import parse_body
from charladder.serving.scheduler import Scheduler
from charladder.serving.scoring import Scorer
from charladder.serving.tokens import Tokenizer
from charladder.training.devices import choose_device

# Products in a pass from which on all threads share it. The event loop wants a core now and then, and to wait for a
# thread that has lost its core takes longer than a small pass does (docs/decisions/0043).
_MIN_SHARED_PRODUCTS = 20_000_000
MIN_STREAMS_PER_WORKER = 8  # streams of such a batch: what Python does for a step, it does for all of them
_MAX_INLINE_BODY_BYTES = 1 << 14  # bytes of a body that is read in the event loop, which takes a millisecond
_REQUEST_MODELS = {
    "/v1/completions": schemas.CompletionRequest,
    "/score": schemas.ScoreRequest,
    "/layers": schemas.LayersRequest,
    "/tokenize": schemas.TokenizeRequest,
    "/detokenize": schemas.DetokenizeRequest,
}
Asked = TypeVar("Asked", bound=schemas.RequestModel)
Read = TypeVar("Read")
_MEDIA_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "png": "image/png",
}


@dataclass
class Service:
    """Everything that answers: a run's network, packed for decoding, and whole for looking."""

    name: str
    run: Run
    scheduler: Scheduler
    scorer: Scorer
    tokenizer: Tokenizer
    completions: Completions
    limits: Limits
    token: str | None
    started_at: float
    parse_executor: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "reading"))

    async def parse(self, request: Request, model: type[Asked], prepare: Callable[[Asked], Read]) -> tuple[Asked, Read]:
        """The body of a request, and what `further` makes of it: in a thread of its own where the body is large, one
        such body at a time. Raises Refused."""

        def work() -> tuple[Asked, Read]:
            asked = parse_body(data, model)
            return asked, prepare(asked)

        data = await request.body()
        if len(data) <= _MAX_INLINE_BODY_BYTES:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self.parse_executor, work)

    def encode_text(self, asked: schemas.TextRequest) -> list[int]:
        """What is to be looked at, as ids. Raises Refused."""
        if (asked.text is None) == (asked.ids is None):
            raise APIError(400, "send either `text` or `ids`", "text")
        if asked.text is None:
            field, ids = "ids", self.tokenizer.check_ids(asked.ids or [], "ids")
        else:
            field, ids = "text", self.tokenizer.encode(asked.text, "text")
        if len(ids) > self.limits.score:
            raise APIError(400, f"the text has {len(ids):,} characters; send {self.limits.score:,} at most", field)
        return ids

    async def run_scoring(self, request: Request, *arguments: Any) -> Any:
        """While somebody waits for it. Raises Refused."""
        return await run_while_connected(request, self.scorer.run(time.monotonic() + self.limits.seconds, *arguments))


def open_service(
    run: Run, limits: Limits, token: str | None = None, precision: str = "float32", device: str = "auto"
) -> Service:
    """Loads a run. Raises UserError where it cannot be served."""
    weights = torch.bfloat16 if precision == "bfloat16" else torch.float32
    network = run.network().to(choose_device(device))
    readers = open_runners(network, limits.streams, weights)
    engine = Scheduler(readers, limits, lambda reader: DecodingConfigs(run, reader, weights, lambda: engine.num_active))
    for reader in readers:
        if isinstance(reader, PackedRunner):
            reader.set_thread_policy(
                lambda products, reader=reader: products >= _MIN_SHARED_PRODUCTS and engine.is_only_active(reader)
            )
    symbols = Tokenizer(run.alphabet, run.recipe.text.unknown)
    looker = Scorer(run, network, symbols, limits)
    name = run.path.resolve().name
    drafters = engine.workers[0].decoding_configs.available_drafters()
    completions = Completions(name, engine, looker, symbols, limits, drafters)
    return Service(name, run, engine, looker, symbols, completions, limits, token, time.monotonic())


def open_runners(network: Transformer, streams: int, weights: torch.dtype) -> list[ModelRunner]:
    """One for all streams; of a small network one for each core, which then waits for no other: each reads all weights,
    from a cache that they share. Larger ones would come from memory as many times as there are cores."""
    first, cores = (
        open_runner(network, 1, None, weights),
        max(1, min(streams // MIN_STREAMS_PER_WORKER, torch.get_num_threads())),
    )
    small = isinstance(first, PackedRunner) and first.fits_cache
    shares = [streams * (n + 1) // cores - streams * n // cores for n in range(cores)] if small else [streams]
    return [open_runner(network, share, None, weights, first) for share in shares]


def make_app(
    service: Service,
    hosts: tuple[str, ...] | None = LOCAL_HOSTS,
    origins: tuple[str, ...] = (),
    root_path: str = "",
    access_log: bool = False,
) -> MetricsMiddleware:
    """The ASGI application. hosts: names under which it may be addressed; None: any. origins: of pages that may use it
    beside its own. root_path: the path under which a proxy publishes it. access_log: a line on standard error for each
    request."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.scheduler.start()
        yield
        await asyncio.to_thread(service.scheduler.close)
        service.scorer.close()
        service.parse_executor.shutdown(wait=False)

    app = FastAPI(
        title="charladder",
        version=__version__,
        summary="Completions as OpenAI's clients ask for them, scores, and the ladder of a character network",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would lead to http and to the path without a proxy's prefix
        responses=ERROR_RESPONSES,
    )
    app.add_exception_handler(APIError, api_errors.handle_api_error)
    app.add_exception_handler(UserError, api_errors.handle_user_error)
    app.add_exception_handler(HTTPException, api_errors.handle_http_exception)
    add_scoring_routes(app, service)
    add_completion_routes(app, service)
    add_tokenizer_routes(app, service)
    add_page_routes(app)
    requests = add_metrics_route(app, service)
    document = openapi.make_openapi_document(app, _REQUEST_MODELS, service.token is not None)

    @app.get("/openapi.json", include_in_schema=False)
    async def described(request: Request) -> Response:
        prefix = openapi.parse_root_path(request.headers.get("x-forwarded-prefix", root_path))
        return JSONResponse(document | ({"servers": [{"url": prefix}]} if prefix else {}))

    guard = RequestMiddleware(app, service.limits, AccessControl(hosts, origins, service.token), root_path)
    shared = CORSMiddleware(guard, allow_origins=origins, allow_methods=["GET", "HEAD", "POST"], allow_headers=["*"])
    return MetricsMiddleware(shared if origins else guard, requests, access_log)


def add_completion_routes(app: FastAPI, service: Service) -> None:
    described = {
        "id": service.name,
        "object": "model",
        "created": service.completions.created,
        "owned_by": "charladder",
    }

    @app.post(
        "/v1/completions",
        response_model=None,
        responses={200: {"model": schemas.CompletionResponse, "content": {"text/event-stream": {}}}},
    )
    async def complete(request: Request) -> Response:
        """Texts that go on from the prompts: in one, or, with `stream`, as server-sent events."""
        completions = service.completions
        asked, writings = await service.parse(request, schemas.CompletionRequest, completions.prepare)
        if not asked.stream:
            answer = await run_while_connected(request, completions.complete(writings, asked.n or 1))
            # A large one takes a while to write: not in the event loop.
            return Response(await asyncio.to_thread(encode_json, answer), media_type="application/json")
        echoes: list[dict[str, Any] | None] = [None] * len(writings)
        if asked.echo and asked.logprobs is not None:
            echoes = await run_while_connected(request, completions.prompt_logprobs(writings, asked.n or 1))
        completions.submit(writings)
        tickets = [w.request for w in writings]
        return EventStream(
            completions.stream_events(asked, writings, echoes), lambda: service.scheduler.cancel(tickets)
        )

    @app.get("/v1/models", responses={200: {"model": schemas.ModelList}}, response_model=None)
    async def models() -> Response:
        """The one model there is."""
        return JSONResponse({"object": "list", "data": [described]})

    @app.get("/v1/models/{name}", responses={200: {"model": schemas.ModelInfo}}, response_model=None)
    async def model(name: str) -> Response:
        """The model, if it is called so."""
        if name != service.name:
            raise APIError(
                404, f"there is no model of this name here; it is called {service.name!r}", "model", "model_not_found"
            )
        return JSONResponse(described)


def add_scoring_routes(app: FastAPI, service: Service) -> None:
    @app.post("/score", responses={200: {"model": schemas.ScoreResponse}}, response_model=None)
    async def score(request: Request) -> Response:
        """The surprise, in bits, of every symbol of a text, and of every layer's own prediction of it."""
        asked, ids = await service.parse(request, schemas.ScoreRequest, service.encode_text)
        end = len(ids) if asked.end is None else asked.end
        if asked.begin > len(ids):
            raise APIError(400, f"begin is {asked.begin}; the text has {len(ids)} symbols", "begin")
        if not asked.begin <= end <= len(ids):
            raise APIError(400, f"end is {end}; it must be at least {asked.begin} and at most {len(ids)}", "end")
        found = await service.run_scoring(request, service.scorer.score, ids, asked.begin, end, asked.layers)
        if asked.text is not None:
            found["offsets"] = service.tokenizer.offsets(asked.text)[asked.begin : end]
        return Response(await asyncio.to_thread(encode_json, found), media_type="application/json")

    @app.post("/layers", responses={200: {"model": schemas.LayersResponse}}, response_model=None)
    async def ladder(request: Request) -> Response:
        """What every layer and target expected at a place of a text."""
        asked, ids = await service.parse(request, schemas.LayersRequest, service.encode_text)
        if asked.place > len(ids):
            raise APIError(400, f"place is {asked.place}; the text has {len(ids)} symbols", "place")
        return JSONResponse(await service.run_scoring(request, service.scorer.predictions_at, ids, asked.place))

    @app.get("/health", responses={200: {"model": schemas.HealthResponse}}, response_model=None)
    async def health() -> Response:
        """Whether it is up, and what it is doing."""
        engine = service.scheduler
        streams = {"active": engine.num_active, "waiting": len(engine.waiting), "limit": service.limits.streams}
        up = time.monotonic() - service.started_at
        facts = {"status": "ok", "model": service.name, "streams": streams, "characters": engine.generated_characters}
        return JSONResponse(facts | {"uptime_seconds": up})

    @app.get("/about", responses={200: {"model": schemas.ServiceInfo}}, response_model=None)
    async def about() -> Response:
        """What is served, and within which limits."""
        model, limits = service.run.recipe.model, service.limits
        return JSONResponse(
            {
                "model": service.name,
                "alphabet": _describe_alphabet(service.tokenizer),
                "layers": model.layers,
                "width": model.width,
                "context": model.context,
                "targets": service.run.recipe.objective.targets,
                "drafters": service.completions.drafters,
                "limits": {"prompt": limits.prompt, "completion": limits.max_tokens, "score": limits.score},
                "token_required": service.token is not None,
            }
        )


def add_tokenizer_routes(app: FastAPI, service: Service) -> None:
    """The alphabet as a remote tokenizer, as vLLM has it: a token is a symbol of the alphabet."""

    @app.post("/tokenize", responses={200: {"model": schemas.TokenizeResponse}}, response_model=None)
    async def tokenize(request: Request) -> Response:
        """A text as tokens. A text that the alphabet cannot spell is an error, or loses letters, by the run's rule."""

        def read(asked: schemas.TokenizeRequest) -> list[int]:
            return service.tokenizer.encode(asked.prompt, "prompt")

        asked, ids = await service.parse(request, schemas.TokenizeRequest, read)
        answer = {"count": len(ids), "max_model_len": service.run.recipe.model.context, "tokens": ids}
        if asked.return_token_strs:
            answer["token_strs"] = [service.tokenizer.token_string(one) for one in ids]
        return Response(await asyncio.to_thread(encode_json, answer), media_type="application/json")

    @app.post("/detokenize", responses={200: {"model": schemas.DetokenizeResponse}}, response_model=None)
    async def detokenize(request: Request) -> Response:
        """Tokens as a text; bytes that are not UTF-8 become U+FFFD."""

        def read(asked: schemas.DetokenizeRequest) -> str:
            return service.tokenizer.decode(service.tokenizer.check_ids(asked.tokens, "tokens"))

        _, text = await service.parse(request, schemas.DetokenizeRequest, read)
        return JSONResponse({"prompt": text})

    @app.get("/tokenizer_info", responses={200: {"model": schemas.TokenizerInfo}}, response_model=None)
    async def tokenizer_info() -> Response:
        """What a client needs to know of the tokenizer."""
        special = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token", "chat_template"))
        own = {
            "tokenizer_class": "charladder",
            "vocab_size": service.tokenizer.alphabet.size,
            "model_max_length": service.run.recipe.model.context,
        }
        return JSONResponse(own | special)


def add_metrics_route(app: FastAPI, service: Service) -> RequestMetrics:
    """/metrics; returns what counts the requests."""
    known = {path for route in app.routes if "{" not in (path := getattr(route, "path", "{"))}
    requests = RequestMetrics(frozenset({*known, "/metrics", "/openapi.json"}))

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_class=Response)
    async def metrics() -> Response:
        """Counters and histograms in Prometheus's text format."""
        engine = service.scheduler
        lines = [
            *requests.prometheus_lines(),
            *metric_lines("charladder_characters_total", "counter", "Characters written.", engine.generated_characters),
            *metric_lines("charladder_streams_active", "gauge", "Texts that are being written.", engine.num_active),
            *metric_lines("charladder_streams_waiting", "gauge", "Texts that wait for a place.", len(engine.waiting)),
            *metric_lines(
                "charladder_uptime_seconds", "gauge", "Seconds since start.", time.monotonic() - service.started_at
            ),
        ]
        return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4; charset=utf-8")

    return requests


def _describe_alphabet(symbols: Tokenizer) -> dict[str, Any]:
    """kind and size; for an alphabet of letters also all of them, and the rule for characters that it lacks."""
    alphabet = symbols.alphabet
    described: dict[str, Any] = {"kind": alphabet.kind, "size": alphabet.size}
    if alphabet.letters:
        described |= {"letters": "".join(alphabet.letters), "unknown": symbols.unknown}
    return described


def add_page_routes(app: FastAPI) -> None:
    """The explorer page: files that are read once."""
    folder = resources.files("charladder.serving") / "page"
    files = {one.name: one.read_bytes() for one in folder.iterdir() if one.name.rpartition(".")[2] in _MEDIA_TYPES}

    def served(name: str) -> Response:
        if name not in files:
            raise APIError(404, "the page has no file of this name")
        return Response(files[name], media_type=_MEDIA_TYPES[name.rpartition(".")[2]])

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return served("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        return served(name)
