"""The routes of OpenAI's API: `/v1/completions` and `/v1/models`."""

import asyncio
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from charladder.serving import schemas
from charladder.serving.api_errors import APIError
from charladder.serving.event_stream import EventStream, run_while_connected
from charladder.serving.json_encoding import encode_json
from charladder.serving.service import Service


def add_completion_routes(app: FastAPI, service: Service) -> None:
    completions = service.completions
    model_info = {"id": service.name, "object": "model", "created": completions.created, "owned_by": "charladder"}

    @app.post(
        "/v1/completions",
        response_model=None,
        responses={200: {"model": schemas.CompletionResponse, "content": {"text/event-stream": {}}}},
    )
    async def complete(request: Request) -> Response:
        """Continues the prompts. The answer is one object, or server-sent events with `stream`."""
        body, choices = await service.parse(request, schemas.CompletionRequest, completions.prepare)
        n = body.n or 1
        if not body.stream:
            answer = await run_while_connected(request, completions.complete(choices, n))
            # A large answer takes long to encode, and would block the event loop.
            return Response(await asyncio.to_thread(encode_json, answer), media_type="application/json")
        prompt_logprobs: list[dict[str, Any] | None] = [None] * len(choices)
        if body.echo and body.logprobs is not None:
            prompt_logprobs = await run_while_connected(request, completions.prompt_logprobs(choices, n))
        completions.submit(choices)
        requests = [choice.request for choice in choices]
        events = completions.stream_events(body, choices, prompt_logprobs)
        return EventStream(events, lambda: service.scheduler.cancel(requests))

    @app.get("/v1/models", responses={200: {"model": schemas.ModelList}}, response_model=None)
    async def models() -> Response:
        """Lists the one model."""
        return JSONResponse({"object": "list", "data": [model_info]})

    @app.get("/v1/models/{name}", responses={200: {"model": schemas.ModelInfo}}, response_model=None)
    async def model(name: str) -> Response:
        """Describes the model of this name."""
        if name != service.name:
            raise APIError(
                404, f"there is no model of this name here; it is called {service.name!r}", "model", "model_not_found"
            )
        return JSONResponse(model_info)
