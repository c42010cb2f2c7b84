"""Server-sent events, to clients that may vanish or dawdle."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, MutableMapping, Sequence
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response

from charladder.serving.api_errors import Refused
from charladder.serving.middleware import Receive, Send
from charladder.serving.requests import Failed

DONE = b"data: [DONE]\n\n"
encode = json.JSONEncoder(separators=(",", ":")).encode
BEGIN = 1.0  # seconds after which a stream begins with a comment, if it has nothing else to send
PING = 5.0  # seconds of silence after which it sends another one
LISTEN = 0.25  # seconds between two looks at whether the client is still there
Answer = TypeVar("Answer")


async def attended(request: Request, answering: Coroutine[Any, Any, Answer]) -> Answer:
    """What is being made for a client, given up where the client goes. Raises Refused."""
    task = asyncio.ensure_future(answering)
    try:
        while not (await asyncio.wait([task], timeout=LISTEN))[0]:
            if await request.is_disconnected():
                raise Refused(499, "the client has gone")
        return task.result()
    finally:
        await given_up([task])


async def given_up(tasks: Sequence[asyncio.Future[Any]]) -> None:
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

    def __init__(self, events: AsyncIterator[tuple[dict[str, Any], bool]], ended: Callable[[], None]) -> None:
        super().__init__(media_type=self.media_type)
        self.events, self.ended = events, ended
        self.raw_headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        self.begun = self.complete = False
        self.lock = asyncio.Lock()
        self.latest = time.monotonic()  # when something was sent

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self.send_all(scope, receive, send))
        watching = asyncio.ensure_future(until_gone(receive))
        pinging = asyncio.ensure_future(self.ping(send))
        try:
            await asyncio.wait([sending, watching], return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self.ended()
            await given_up([sending, watching, pinging])

    async def send_all(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        try:
            async for event, last in self.events:
                await self.send(send, line(event), last)
        except (Failed, Refused) as error:
            refused = error if isinstance(error, Refused) else Refused(error.status, error.sentence)
            async with self.lock:
                if not self.begun:
                    self.begun = self.complete = True
                    await refused.answer()(scope, receive, send)
            refused.code = refused.code or str(refused.status)
            await self.send(send, line(refused.body()), True)

    async def ping(self, send: Send) -> None:
        """Sends comments, which clients skip."""
        while not self.complete:
            left = self.latest + (PING if self.begun else BEGIN) - time.monotonic()
            if left > 0:
                await asyncio.sleep(left)
            else:
                await self.send(send, b": waiting\n\n", False)

    async def send(self, send: Send, body: bytes, last: bool) -> None:
        async with self.lock:
            if self.complete:
                return
            if not self.begun:
                self.begun = True
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            self.complete = last
            await send({"type": "http.response.body", "body": body + DONE if last else body, "more_body": not last})
            self.latest = time.monotonic()


def line(event: dict[str, Any]) -> bytes:
    return f"data: {encode(event)}\n\n".encode()


async def until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
