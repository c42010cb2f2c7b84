"""Server-sent events, to clients that may vanish or dawdle."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, MutableMapping, Sequence
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response

from charladder.serving.api_errors import APIError
from charladder.serving.middleware import Receive, Send
from charladder.serving.requests import GenerationError

_DONE_EVENT = b"data: [DONE]\n\n"
_encode_json = json.JSONEncoder(separators=(",", ":")).encode
FIRST_COMMENT_SECONDS = 1.0  # seconds after which a stream begins with a comment, if it has nothing else to send
KEEPALIVE_SECONDS = 5.0  # seconds of silence after which it sends another one
_DISCONNECT_POLL_SECONDS = 0.25  # seconds between two looks at whether the client is still there
Answer = TypeVar("Answer")


async def run_while_connected(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """What is being made for a client, given up where the client goes. Raises Refused."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([task], timeout=_DISCONNECT_POLL_SECONDS))[0]:
            if await request.is_disconnected():
                raise APIError(499, "the client has gone")
        return task.result()
    finally:
        await cancel_and_wait([task])


async def cancel_and_wait(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancels what is not done, and waits until it has ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class EventStream(Response):
    """Sends objects as events, each given with whether it is the last, then `[DONE]`. While there is nothing to send, a
    comment every few seconds tells the client, and proxies on the way, that the stream goes on. An error before the
    first event or comment is an answer with its own status; later it is an event, with the status as its code. `ended`
    is called whatever happens: the client has everything, has gone, or takes nothing."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[tuple[dict[str, Any], bool]], on_end: Callable[[], None]) -> None:
        super().__init__(media_type=self.media_type)
        self.events, self.on_end = events, on_end
        self.raw_headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        self.has_started = self.is_complete = False
        self.lock = asyncio.Lock()
        self.last_sent_at = time.monotonic()  # when something was sent

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
        """Sends comments, which clients skip."""
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
