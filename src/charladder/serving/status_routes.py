"""The routes `/health`, `/about` and `/metrics`."""

import time
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from charladder.serving import schemas
from charladder.serving.metrics import RequestMetrics, metric_lines
from charladder.serving.service import Service
from charladder.serving.tokens import Tokenizer


def add_status_routes(app: FastAPI, service: Service) -> None:
    """Adds `/health` and `/about`."""

    @app.get("/health", responses={200: {"model": schemas.HealthResponse}}, response_model=None)
    async def health() -> Response:
        """Whether the service is up, and its load."""
        scheduler = service.scheduler
        return JSONResponse(
            {
                "status": "ok",
                "model": service.name,
                "streams": {
                    "active": scheduler.num_active,
                    "waiting": len(scheduler.waiting),
                    "limit": service.limits.streams,
                },
                "characters": scheduler.generated_characters,
                "uptime_seconds": time.monotonic() - service.started_at,
            }
        )

    @app.get("/about", responses={200: {"model": schemas.ServiceInfo}}, response_model=None)
    async def about() -> Response:
        """The model that is served, and the limits of requests."""
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


def add_metrics_route(app: FastAPI, service: Service) -> RequestMetrics:
    """Adds `/metrics`. Returns the counters, which name all routes that exist at this moment."""
    paths = {path for route in app.routes if "{" not in (path := getattr(route, "path", "{"))}
    counters = RequestMetrics(frozenset({*paths, "/metrics", "/openapi.json"}))

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_class=Response)
    async def metrics() -> Response:
        """Counters and histograms in Prometheus's text format."""
        scheduler = service.scheduler
        seconds = time.monotonic() - service.started_at
        lines = [
            *counters.prometheus_lines(),
            *metric_lines(
                "charladder_characters_total", "counter", "Characters generated.", scheduler.generated_characters
            ),
            *metric_lines("charladder_streams_active", "gauge", "Texts being generated.", scheduler.num_active),
            *metric_lines("charladder_streams_waiting", "gauge", "Texts in the queue.", len(scheduler.waiting)),
            *metric_lines("charladder_uptime_seconds", "gauge", "Seconds since start.", seconds),
        ]
        return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4; charset=utf-8")

    return counters


def _describe_alphabet(tokenizer: Tokenizer) -> dict[str, Any]:
    """kind and size; for an alphabet of letters also the letters, and the rule for unknown ones."""
    alphabet = tokenizer.alphabet
    info: dict[str, Any] = {"kind": alphabet.kind, "size": alphabet.size}
    if alphabet.letters:
        info |= {"letters": "".join(alphabet.letters), "unknown": tokenizer.unknown}
    return info
