"""Errors as JSON responses in OpenAI's format."""

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from charladder.errors import UserError
from charladder.serving.schemas import ErrorResponse

SHUTTING_DOWN = "the service is closing"
_ERROR_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error",
    500: "server_error", 503: "server_error",
}  # fmt: skip
ERROR_RESPONSES: dict[int | str, dict[str, object]] = {
    status: {"model": ErrorResponse, "description": description}
    for status, description in {
        400: "a field is wrong, or the body is not JSON",
        401: "the token is missing or wrong",
        403: "the request comes from another site, or for another host",
        404: "there is no such model or path",
        405: "the path does not support this method",
        408: "the request took too long",
        413: "the body is too large",
        415: "the body is not application/json",
        429: "there are too many requests",
        431: "the request head is too large",
        503: "there are too many connections, the request waited too long, or the service is closing",
    }.items()
}


class APIError(Exception):
    """A response with an error status. message: one sentence: what is wrong, and what to do. param: the request's
    field that is wrong."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def to_body(self) -> dict[str, object]:
        kind = _ERROR_TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def to_response(self) -> JSONResponse:
        headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "1"}}.get(
            self.status
        )
        return JSONResponse(self.to_body(), self.status, headers)


async def handle_api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, APIError)
    return error.to_response()


async def handle_user_error(request: Request, error: Exception) -> JSONResponse:
    """A UserError of the library has the name of the request's field."""
    assert isinstance(error, UserError)
    return APIError(400, str(error), error.field).to_response()


async def handle_http_exception(request: Request, error: Exception) -> JSONResponse:
    """Errors that Starlette and FastAPI raise themselves."""
    assert isinstance(error, HTTPException)
    messages = {
        404: f"there is nothing at {request.url.path!r} here",
        405: f"{request.url.path!r} does not take {request.method}",
        400: "the body cannot be read as JSON; send an object, UTF-8",
    }
    response = APIError(error.status_code, messages.get(error.status_code, str(error.detail))).to_response()
    response.headers.update(error.headers or {})
    return response
