"""What goes wrong, as an answer that OpenAI's clients turn into an exception of their own."""

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from charladder.errors import UserError
from charladder.serving.schemas import ErrorResponse

_ERROR_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error",
    500: "server_error", 503: "server_error",
}  # fmt: skip
SHUTTING_DOWN = "the service is closing"
ERROR_RESPONSES: dict[int | str, dict[str, object]] = {
    status: {"model": ErrorResponse, "description": what}
    for status, what in {
        400: "a field is wrong, or the body is no JSON",
        401: "no token, or a wrong one",
        403: "a request from another site, or for another host",
        404: "no such model or path",
        405: "no such method here",
        408: "not done within the time there is",
        413: "a body that is too large",
        415: "a body that is no application/json",
        429: "too much is going on",
        431: "a request head that is too large",
        503: "too many connections, no place for a text within the time there is, or the service is closing",
    }.items()
}


class APIError(Exception):
    """An answer other than success. `sentence` says what is wrong, where, and what to do."""

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
    assert isinstance(error, UserError)
    return APIError(400, str(error), error.field).to_response()


async def handle_http_exception(request: Request, error: Exception) -> JSONResponse:
    """What the framework itself refuses."""
    assert isinstance(error, HTTPException)
    sentences = {
        404: f"there is nothing at {request.url.path!r} here",
        405: f"{request.url.path!r} does not take {request.method}",
        400: "the body cannot be read as JSON; send an object, UTF-8",
    }
    answer = APIError(error.status_code, sentences.get(error.status_code, str(error.detail))).to_response()
    answer.headers.update(error.headers or {})
    return answer
