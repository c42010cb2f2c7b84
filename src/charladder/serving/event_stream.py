"""Server-sent events, and the cancellation of work whose client has disconnected."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, MutableMapping, Sequence
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response

from charladder.serving.api_errors import APIError
from charladder.serving.generation_request import GenerationError
from charladder.serving.middleware import Receive, Send

_DONE_EVENT = b"data: [DONE]\n\n"
_encode_json = json.JSONEncoder(separators=(",", ":")).encode
FIRST_COMMENT_SECONDS = 1.0  # a stream that has nothing to send begins with a comment after this time
KEEPALIVE_SECONDS = 5.0  # and sends another comment after this time without an event
_DISCONNECT_POLL_SECONDS = 0.25
Answer = TypeVar("Answer")


async def run_while_connected(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """The result of `work`, which is cancelled if the client disconnects. Raises APIError."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([task], timeout=_DISCONNECT_POLL_SECONDS))[0]:
            if await request.is_disconnected():
                raise APIError(499, "the client has disconnected")
        return task.result()
    finally:
        await cancel_and_wait([task])


async def cancel_and_wait(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancels tasks that are not done, and waits until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class EventStream(Response):
    """Sends objects as events, each given with whether it is the last, then `[DONE]`.

    While there is nothing to send, a comment every few seconds keeps the connection open in clients and proxies. An
    error before the first event or comment is a response with its own status; a later one is an event with the status
    as its code. `on_end` is always called: after the last event, a disconnection or a timeout."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[tuple[dict[str, Any], bool]], on_end: Callable[[], None]) -> None:
        super().__init__(media_type=self.media_type)
        self.events, self.on_end = events, on_end
        self.raw_headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        self.has_started = self.is_complete = False
        self.lock = asyncio.Lock()
        self.last_sent_at = time.monotonic()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send_events(scope, receive, send))
        watching = asyncio.ensure_future(_wait_for_disconnect(receive))
        pinging = asyncio.ensure_future(self._send_keepalives(send))
        try:
            await asyncio.wait([sending, watching], return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self.on_end()
            await cancel_and_wait([sending, watching, pinging])

    async def _send_events(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        try:
            async for event, last in self.events:
                await self._send(send, _format_event(event), last)
        except (GenerationError, APIError) as error:
            refused = error if isinstance(error, APIError) else APIError(error.status, error.message)
            async with self.lock:
                if not self.has_started:
                    self.has_started = self.is_complete = True
                    await refused.to_response()(scope, receive, send)
            refused.code = refused.code or str(refused.status)
            await self._send(send, _format_event(refused.to_body()), True)

    async def _send_keepalives(self, send: Send) -> None:
        """Sends comments, which clients ignore."""
        while not self.is_complete:
            left = (
                self.last_sent_at
                + (KEEPALIVE_SECONDS if self.has_started else FIRST_COMMENT_SECONDS)
                - time.monotonic()
            )
            if left > 0:
                await asyncio.sleep(left)
            else:
                await self._send(send, b": waiting\n\n", False)

    async def _send(self, send: Send, body: bytes, last: bool) -> None:
        async with self.lock:
            if self.is_complete:
                return
            if not self.has_started:
                self.has_started = True
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            self.is_complete = last
            await send(
                {"type": "http.response.body", "body": body + _DONE_EVENT if last else body, "more_body": not last}
            )
            self.last_sent_at = time.monotonic()


def _format_event(event: dict[str, Any]) -> bytes:
    return f"data: {_encode_json(event)}\n\n".encode()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
