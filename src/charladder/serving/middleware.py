"""The middleware in front of the application: access control, limits of size and time, and security headers."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from charladder.serving.access_control import AccessControl
from charladder.serving.api_errors import APIError
from charladder.serving.limits import Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_MAX_SEND_BYTES = 1 << 16
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_SECURITY_HEADERS = [
    (b"content-security-policy", _CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


@dataclass
class RequestMiddleware:
    """ASGI middleware. root_path: the path under which a proxy publishes the service, without a slash at the end; it
    is removed from paths that begin with it."""

    app: Any
    limits: Limits
    access: AccessControl
    root_path: str = ""
    num_requests: int = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope = self._strip_root_path(scope)
        head = scope["method"] == "HEAD"
        has_started, loop, timeout = False, asyncio.get_running_loop(), asyncio.timeout(None)
        sending_since: float | None = None

        def check_client() -> None:
            """Times out if the client receives nothing. One timer serves all messages, because a stream has many."""
            nonlocal timer
            limit = self.limits.client_seconds
            left = limit if sending_since is None else sending_since + limit - loop.time()
            if left <= 0:
                timeout.reschedule(loop.time())
            else:
                timer = loop.call_later(left, check_client)

        async def send_parts(message: Message) -> None:
            nonlocal has_started, sending_since
            if message["type"] == "http.response.start":
                has_started = True
                message["headers"] = [*message.get("headers", []), *_SECURITY_HEADERS]
            if head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            for part in _split_message(message):
                sending_since = loop.time()
                try:
                    await send(part)
                finally:
                    sending_since = None

        timer = loop.call_later(self.limits.client_seconds, check_client)
        self.num_requests += 1
        try:
            async with timeout:
                try:
                    if self.num_requests > self.limits.requests:
                        raise APIError(429, f"{self.limits.requests:,} requests are being answered; try again later")
                    self._check_headers(scope)
                    body = await self._read_body(scope, receive)
                    body_received = False

                    async def replay() -> Message:
                        nonlocal body_received
                        if body_received:
                            return await receive()
                        body_received = True
                        return {"type": "http.request", "body": body, "more_body": False}

                    # HEAD is answered like GET, without the body.
                    await self.app({**scope, "method": "GET"} if head else scope, replay, send_parts)
                except APIError as error:
                    if not has_started:
                        await error.to_response()(scope, receive, send_parts)
        except TimeoutError:
            # The client receives nothing. Closing the connection would wait for it forever, so it is aborted.
            cut = scope.get("extensions", {}).get("charladder.cut")
            if cut is not None:
                cut()
        finally:
            timer.cancel()
            self.num_requests -= 1

    def _strip_root_path(self, scope: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """The scope without the root path, which a proxy may have removed already."""
        path, root = scope["path"], self.root_path
        if not root or not path.startswith(f"{root}/"):
            return scope
        return {**scope, "path": path[len(root) :], "raw_path": scope["raw_path"][len(root) :]}

    def _check_headers(self, scope: MutableMapping[str, Any]) -> None:
        """Raises APIError for a request that is not allowed, or whose body cannot be read."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if sum(name == b"host" for name, _ in scope["headers"]) > 1:
            raise APIError(400, "the request has more than one `Host` header; send one")
        self.access.check(scope["method"], scope["path"], headers)
        if scope["method"] in ("POST", "PUT", "PATCH"):
            kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise APIError(415, "a body must be JSON, and say so: `Content-Type: application/json`")
            coding = headers.get(b"content-encoding", "identity").strip().lower()
            if coding != "identity":
                raise APIError(415, "a compressed body is not read; send it without `Content-Encoding`")
        length = headers.get(b"content-length", "0")
        if not length.isdecimal() or int(length[:19]) > self.limits.body_bytes:
            raise self._body_too_large()

    def _body_too_large(self) -> APIError:
        return APIError(413, f"the body is larger than {self.limits.body_bytes:,} bytes; send less at once")

    async def _read_body(self, scope: MutableMapping[str, Any], receive: Receive) -> bytes:
        """The whole body. Raises APIError if it is too large or late."""
        if scope["method"] in ("GET", "HEAD", "OPTIONS", "DELETE"):
            return b""
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.limits.client_seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise APIError(400, "the body ended before its end")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self.limits.body_bytes:
                        raise self._body_too_large()
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise APIError(408, "the body did not come in time; send it at once") from None


def _split_message(message: Message) -> list[Message]:
    """A message in parts, because a client that receives nothing is only noticed between two of them."""
    body = message.get("body", b"")
    if len(body) <= _MAX_SEND_BYTES:
        return [message]
    more, end = message.get("more_body", False), len(body)
    return [
        {**message, "body": body[begin : begin + _MAX_SEND_BYTES], "more_body": more or begin + _MAX_SEND_BYTES < end}
        for begin in range(0, end, _MAX_SEND_BYTES)
    ]
