"""Server-sent events, to clients that may vanish or dawdle."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, MutableMapping, Sequence
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response

from charladder.serving.guard import Receive, Send
from charladder.serving.problems import Refused
from charladder.serving.tickets import Failed

DONE = b"data: [DONE]\n\n"
encode = json.JSONEncoder(separators=(",", ":")).encode
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
    """Sends objects as events, each given with whether it is the last, then `[DONE]`. `ended` is called whatever
    happens: the client has everything, has gone, or takes nothing."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[tuple[dict[str, Any], bool]], ended: Callable[[], None]) -> None:
        super().__init__(media_type=self.media_type)
        self.events, self.ended = events, ended
        self.raw_headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self.send_all(send))
        watching = asyncio.ensure_future(until_gone(receive))
        try:
            await asyncio.wait([sending, watching], return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self.ended()
            await given_up([sending, watching])

    async def send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for event, last in self.events:
                await send(part(line(event), last))
        except Failed as error:
            await send(part(line(Refused(500, str(error)).body()), True))
        except Refused as refused:
            await send(part(line(refused.body()), True))


def line(event: dict[str, Any]) -> bytes:
    return f"data: {encode(event)}\n\n".encode()


def part(body: bytes, last: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body + DONE if last else body, "more_body": not last}


async def until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
