"""The OpenAPI document, and the path prefix of a proxy."""

import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from charladder.serving import schemas
from charladder.serving.access_control import PUBLIC_PATHS

_ROOT_PATH_PATTERN = re.compile(r"(/[A-Za-z0-9._~-]+)+/?")
_COMPONENT_REFERENCE = "#/components/schemas/{model}"
# The schemas of bodies are added here, because request_bodies.py parses them and not FastAPI.
_REQUEST_MODELS: dict[str, type[schemas.RequestModel]] = {
    "/v1/completions": schemas.CompletionRequest,
    "/score": schemas.ScoreRequest,
    "/layers": schemas.LayersRequest,
    "/tokenize": schemas.TokenizeRequest,
    "/detokenize": schemas.DetokenizeRequest,
}


def parse_root_path(path: str) -> str:
    """The path prefix of a proxy, without a slash at the end; empty if `path` is not one."""
    return path.rstrip("/") if _ROOT_PATH_PATTERN.fullmatch(path) else ""


def make_openapi_document(app: FastAPI, token_required: bool) -> dict[str, Any]:
    """The OpenAPI document of `app`. token_required: requests need a bearer token."""
    document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    _, definitions = models_json_schema(
        [(model, "validation") for model in _REQUEST_MODELS.values()], ref_template=_COMPONENT_REFERENCE
    )
    document["components"]["schemas"].update(definitions["$defs"])
    for path, model in _REQUEST_MODELS.items():
        schema = {"$ref": _COMPONENT_REFERENCE.format(model=model.__name__)}
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        document["paths"][path]["post"]["requestBody"] = body
    if token_required:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
        for path in PUBLIC_PATHS:
            if path in document["paths"]:
                document["paths"][path]["get"]["security"] = []
    return document
