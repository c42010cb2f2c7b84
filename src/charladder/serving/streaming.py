"""Server-sent events, to clients that may vanish or dawdle."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, MutableMapping, Sequence
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response

from charladder.serving.engine import Failed
from charladder.serving.guard import Receive, Send
from charladder.serving.problems import Refused

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
    """Sends objects as events, then `[DONE]`. `ended` is called whatever happens: the client has everything, has gone,
    or takes nothing."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[dict[str, Any]], ended: Callable[[], None]) -> None:
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
            async for event in self.events:
                await send(chunk(json.dumps(event, separators=(",", ":"))))
        except Failed as error:
            await send(chunk(json.dumps(Refused(500, str(error)).body())))
        except Refused as refused:
            await send(chunk(json.dumps(refused.body())))
        await send(chunk("[DONE]"))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def chunk(data: str) -> dict[str, Any]:
    return {"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True}


async def until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
