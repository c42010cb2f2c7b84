"""The routes `/score` and `/layers`."""

import asyncio

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from charladder.serving import schemas
from charladder.serving.api_errors import APIError
from charladder.serving.json_encoding import encode_json
from charladder.serving.service import Service


def add_scoring_routes(app: FastAPI, service: Service) -> None:
    @app.post("/score", responses={200: {"model": schemas.ScoreResponse}}, response_model=None)
    async def score(request: Request) -> Response:
        """The bits of every symbol of a text, and, with `layers`, those of every head."""
        body, ids = await service.parse(request, schemas.ScoreRequest, service.encode_text)
        end = len(ids) if body.end is None else body.end
        if body.begin > len(ids):
            raise APIError(400, f"begin is {body.begin}; the text has {len(ids)} symbols", "begin")
        if not body.begin <= end <= len(ids):
            raise APIError(400, f"end is {end}; it must be at least {body.begin} and at most {len(ids)}", "end")
        result = await service.run_scoring(request, service.scorer.score, ids, body.begin, end, body.layers)
        if body.text is not None:
            result["offsets"] = service.tokenizer.offsets(body.text)[body.begin : end]
        return Response(await asyncio.to_thread(encode_json, result), media_type="application/json")

    @app.post("/layers", responses={200: {"model": schemas.LayersResponse}}, response_model=None)
    async def layers(request: Request) -> Response:
        """The predictions of every head at one position of a text."""
        body, ids = await service.parse(request, schemas.LayersRequest, service.encode_text)
        if body.place > len(ids):
            raise APIError(400, f"place is {body.place}; the text has {len(ids)} symbols", "place")
        return JSONResponse(await service.run_scoring(request, service.scorer.predictions_at, ids, body.place))
