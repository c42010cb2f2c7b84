"""The ASGI application of the service: routes, error handlers and middleware."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from charladder import __version__
from charladder.errors import UserError
from charladder.serving import api_errors, openapi
from charladder.serving.access_control import LOCAL_HOSTS, AccessControl
from charladder.serving.completion_routes import add_completion_routes
from charladder.serving.metrics import MetricsMiddleware
from charladder.serving.middleware import RequestMiddleware
from charladder.serving.page_routes import add_page_routes
from charladder.serving.scoring_routes import add_scoring_routes
from charladder.serving.service import Service
from charladder.serving.status_routes import add_metrics_route, add_status_routes
from charladder.serving.tokenizer_routes import add_tokenizer_routes


def make_app(
    service: Service,
    hosts: tuple[str, ...] | None = LOCAL_HOSTS,
    origins: tuple[str, ...] = (),
    root_path: str = "",
    access_log: bool = False,
) -> MetricsMiddleware:
    """The ASGI application. hosts: `Host` names that it accepts; None: any. origins: further origins whose pages may
    use it. root_path: the path under which a proxy publishes it. access_log: log each request on standard error."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.scheduler.start()
        yield
        await service.close()

    app = FastAPI(
        title="charladder",
        version=__version__,
        summary="OpenAI's completions, scores, and the predictions of every layer of a character-level language model",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would lose https and the prefix of a proxy
        responses=api_errors.ERROR_RESPONSES,
    )
    app.add_exception_handler(api_errors.APIError, api_errors.handle_api_error)
    app.add_exception_handler(UserError, api_errors.handle_user_error)
    app.add_exception_handler(HTTPException, api_errors.handle_http_exception)
    add_scoring_routes(app, service)
    add_status_routes(app, service)
    add_completion_routes(app, service)
    add_tokenizer_routes(app, service)
    add_page_routes(app)
    metrics = add_metrics_route(app, service)
    document = openapi.make_openapi_document(app, service.token is not None)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi_document(request: Request) -> Response:
        prefix = openapi.parse_root_path(request.headers.get("x-forwarded-prefix", root_path))
        return JSONResponse(document | ({"servers": [{"url": prefix}]} if prefix else {}))

    guarded = RequestMiddleware(app, service.limits, AccessControl(hosts, origins, service.token), root_path)
    if not origins:
        return MetricsMiddleware(guarded, metrics, access_log)
    cors = CORSMiddleware(guarded, allow_origins=origins, allow_methods=["GET", "HEAD", "POST"], allow_headers=["*"])
    return MetricsMiddleware(cors, metrics, access_log)
