"""Client connections with limits that uvicorn lacks: their number, their idle time and the size of a request head."""

import asyncio
import contextlib
import http
import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from charladder.serving.api_errors import APIError
from charladder.serving.limits import Limits

_PARSE_BYTES = 1 << 14  # given to the parser at once
_MAX_PIPELINED_REQUESTS = 64  # of one connection, waiting for the response to the one before
_LINGER_SECONDS = 1.0  # how long input is discarded after a refusal; an immediate close might lose the refusal
RESERVED_DESCRIPTORS = 64  # for connections being accepted or refused, and for files


class Connection(HttpToolsProtocol):
    """One connection. idle: all connections without a complete request, the oldest first. When there are too many
    connections, a new one closes the oldest idle one; if none is idle, the new one is refused."""

    def __init__(self, *arguments: Any, limits: Limits, idle: dict["Connection", None], **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.limits, self.idle = limits, idle
        self.app = self._answer
        self.unparsed_bytes = 0  # since the last complete part of a request
        self.is_refused = False
        self.parser: Any  # None after the connection is lost
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            oldest = next(iter(self.idle), None)
            if oldest is None:
                self._refuse(503, f"{self.limits.connections:,} connections have requests; try again later")
                transport.close()
                return
            oldest._stop_waiting()
            oldest.transport.abort()
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        begin = 0
        while begin < len(data):
            if self.is_refused or self.transport.is_closing():
                return
            # A part ends at the limit, so that a larger head is never complete.
            piece = data[begin : begin + min(_PARSE_BYTES, self.limits.head_bytes - self.unparsed_bytes)]
            begin += len(piece)
            self.unparsed_bytes += len(piece)
            self._parse(piece)
            if self.unparsed_bytes >= self.limits.head_bytes:
                self._refuse(
                    431, f"the request head is larger than {self.limits.head_bytes:,} bytes; send shorter headers"
                )

    def _parse(self, data: bytes) -> None:
        """Parses data. httptools ends a request at a head that asks for another protocol. Such a head is parsed again
        without its `Upgrade`, so that the body after it is read."""
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                method = self.parser.get_method()
                if method == b"CONNECT":
                    self._refuse(405, "this service is not a proxy; send GET or POST")
                    return
                version = self.parser.get_http_version().encode()
                fields = [(name, value) for name, value in self.headers if name != b"upgrade"]
                head = [b"%s %s HTTP/%s" % (method, self.url, version), *(b"%s: %s" % field for field in fields)]
                data = b"\r\n".join([*head, b"", b""]) + data[upgrade.args[0] :]
            except httptools.HttpParserError:
                self._refuse(400, "this is not a valid HTTP/1.1 request")
                return

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self.unparsed_bytes = 0
        self._stop_waiting()
        if len(self.pipeline) >= _MAX_PIPELINED_REQUESTS:
            self.transport.abort()
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:
            self._wait_for_request()

    async def _answer(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Calls the application, and drops its response once the connection is closing. HTTP/1.0 has no chunked
        encoding, so there the end of the connection ends the response."""
        cycle, app = send.__self__, cast(Any, self.config.loaded_app)
        unframed = scope["http_version"] == "1.0" and scope["method"] != "HEAD"

        def cut() -> None:
            cycle.disconnected = True
            self.transport.abort()

        async def send_on(message: MutableMapping[str, Any]) -> None:
            if self.transport.is_closing():
                cycle.disconnected = True
                return
            if unframed:
                cycle.chunked_encoding, cycle.expected_content_length = False, len(message.get("body", b""))
            await send(message)

        scope["extensions"] = {"charladder.cut": cut}
        await app(scope, receive, send_on)

    def _wait_for_request(self) -> None:
        self._stop_waiting()
        self.idle[self] = None
        self.timer = self.loop.call_later(self.limits.client_seconds, self._end_waiting)

    def _stop_waiting(self) -> None:
        self.idle.pop(self, None)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _end_waiting(self) -> None:
        if self.unparsed_bytes and not self.transport.is_closing():
            self._refuse(408, "the request head did not come in time; send it at once")
        else:
            self.transport.abort()  # with the data that the client has not received

    def _refuse(self, status: int, sentence: str) -> None:
        """Responds without the application. Aborts the connection if a response has begun already."""
        self.is_refused = True
        self._stop_waiting()
        if self.cycle is not None and not self.cycle.response_complete:
            if self.cycle.response_started or self.pipeline:
                self.transport.abort()
                return
            self.cycle.disconnected = True  # the body of this request is malformed
            self.cycle.message_event.set()
        body = json.dumps(APIError(status, sentence).to_body()).encode()
        head = f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        self.transport.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.timer = self.loop.call_later(_LINGER_SECONDS, self.transport.abort)


def limit_connections(connections: int) -> int:
    """How many connections the limit of open files allows, at most `connections`. Raises the limit if it can."""
    try:
        import resource
    except ImportError:  # not on Unix
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + num_open_descriptors() + RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):  # the system has a lower limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    return (
        connections
        if soft == resource.RLIM_INFINITY
        else max(1, min(connections, soft - num_open_descriptors() - RESERVED_DESCRIPTORS))
    )


def num_open_descriptors() -> int:
    """The number of open file descriptors of this process."""
    try:
        return len(list(Path("/dev/fd").iterdir()))
    except OSError:
        return 64
