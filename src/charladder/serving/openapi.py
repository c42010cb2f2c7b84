"""The service described for machines: /openapi.json.

Bodies are read by `serving.bodies` and not by FastAPI, so their schemas are added here.
"""

import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from charladder.serving.access_control import PUBLIC_PATHS
from charladder.serving.schemas import RequestModel

_ROOT_PATH_PATTERN = re.compile(r"(/[A-Za-z0-9._~-]+)+/?")
_COMPONENT_REFERENCE = "#/components/schemas/{model}"


def parse_root_path(path: str) -> str:
    """The path of a proxy, without a slash at the end; empty for what is no path."""
    return path.rstrip("/") if _ROOT_PATH_PATTERN.fullmatch(path) else ""


def make_openapi_document(
    app: FastAPI, bodies: Mapping[str, type[RequestModel]], token_required: bool
) -> dict[str, Any]:
    """The OpenAPI document of `app`. bodies: the request model of each path that takes one. token_required: requests
    need a bearer token."""
    found = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    _, schemas = models_json_schema(
        [(model, "validation") for model in bodies.values()], ref_template=_COMPONENT_REFERENCE
    )
    found["components"]["schemas"].update(schemas["$defs"])
    for path, model in bodies.items():
        schema = {"$ref": _COMPONENT_REFERENCE.format(model=model.__name__)}
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        found["paths"][path]["post"]["requestBody"] = body
    if token_required:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
        for path in PUBLIC_PATHS:
            if path in found["paths"]:
                found["paths"][path]["get"]["security"] = []
    return found
