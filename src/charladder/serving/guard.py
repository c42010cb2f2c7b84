"""Stands before the service: who may ask, how much may be sent, and for how long anybody is waited for."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from charladder.serving.limits import Limits
from charladder.serving.problems import Refused

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
PART = 1 << 16  # bytes of an answer sent at once
LOCAL = ("localhost", "127.0.0.1", "[::1]")
OPEN = ("/", "/health")  # without the token, and all that is under /page/
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


@dataclass
class Guard:
    """An ASGI application around another. hosts: names under which it may be addressed; None: any."""

    app: Any
    limits: Limits
    token: str | None = None
    hosts: tuple[str, ...] | None = LOCAL
    inside: int = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answering, loop, whole = False, asyncio.get_running_loop(), asyncio.timeout(None)
        since: float | None = None  # when the sending that is going on began

        def look() -> None:
            """Cuts off who takes nothing. One timer for all messages: a stream has many, most of them taken at once."""
            nonlocal timer
            left = self.limits.patience if since is None else since + self.limits.patience - loop.time()
            if left <= 0:
                whole.reschedule(loop.time())
            else:
                timer = loop.call_later(left, look)

        async def patient_send(message: Message) -> None:
            nonlocal answering, since
            if message["type"] == "http.response.start":
                answering = True
                message["headers"] = [*message.get("headers", []), *HEADERS]
            for part in parts(message):
                since = loop.time()
                try:
                    await send(part)
                finally:
                    since = None

        timer = loop.call_later(self.limits.patience, look)
        self.inside += 1
        try:
            async with whole:
                try:
                    if self.inside > self.limits.requests:
                        raise Refused(429, f"{self.limits.requests:,} requests are being answered; try again later")
                    self.check(scope)
                    body = await self.read(scope, receive)
                    given = False

                    async def replay() -> Message:
                        nonlocal given
                        if given:
                            return await receive()
                        given = True
                        return {"type": "http.request", "body": body, "more_body": False}

                    await self.app(scope, replay, patient_send)
                except Refused as refused:
                    if not answering:
                        await refused.answer()(scope, receive, patient_send)
        except TimeoutError:
            # The client takes nothing. Its connection is cut, with what waits there: closed, it would wait for ever.
            cut = scope.get("extensions", {}).get("charladder.cut")
            if cut is not None:
                cut()
        finally:
            timer.cancel()
            self.inside -= 1

    def check(self, scope: MutableMapping[str, Any]) -> None:
        """Raises Refused for whoever may not ask."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if self.hosts is not None and name_of(host) not in self.hosts:
            raise Refused(403, f"this service is not called {host[:80]!r}; address it as {self.hosts[0]}")
        method = scope["method"]
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site", "none")
        visit = method in ("GET", "HEAD") and headers.get(b"sec-fetch-mode") == "navigate" and scope["path"] == "/"
        if (origin is not None and origin.partition("://")[2] != host) or (
            site in ("cross-site", "same-site") and not visit
        ):
            raise Refused(403, "a request from another site is refused; use the page of this service itself")
        if self.token is not None and scope["path"] not in OPEN and not scope["path"].startswith("/page/"):
            given = headers.get(b"authorization", "")
            scheme, _, secret = given.partition(" ")
            right = hmac.compare_digest(secret.strip().encode("latin-1"), self.token.encode())
            if scheme.lower() != "bearer" or not right:
                raise Refused(401, "this service wants its token; send it as `Authorization: Bearer TOKEN`")
        if method in ("POST", "PUT", "PATCH"):
            kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise Refused(415, "a body must be JSON, and say so: `Content-Type: application/json`")
        length = headers.get(b"content-length", "0")
        if not length.isdecimal() or int(length[:19]) > self.limits.body:
            raise self.too_large()

    def too_large(self) -> Refused:
        return Refused(413, f"the body is larger than {self.limits.body:,} bytes; send less at once")

    async def read(self, scope: MutableMapping[str, Any], receive: Receive) -> bytes:
        """The whole body. Raises Refused for one that is too large, or does not come."""
        if scope["method"] in ("GET", "HEAD", "OPTIONS", "DELETE"):
            return b""
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.limits.patience):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise Refused(400, "the body ended before its end")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self.limits.body:
                        raise self.too_large()
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise Refused(408, "the body did not come in time; send it at once") from None


def parts(message: Message) -> list[Message]:
    """A message part by part, for only between two of them is a client that takes nothing noticed."""
    body = message.get("body", b"")
    if len(body) <= PART:
        return [message]
    more, end = message.get("more_body", False), len(body)
    return [
        {**message, "body": body[begin : begin + PART], "more_body": more or begin + PART < end}
        for begin in range(0, end, PART)
    ]


def name_of(host: str) -> str:
    """The name in a Host header, without the port."""
    if host.startswith("["):
        return (host.partition("]")[0] + "]").lower()
    return host.partition(":")[0].lower()
