"""The web server of a service, and its end: texts that are being written end with a word to whoever reads them, without
a traceback."""

import asyncio
import functools
import socket
from typing import Any, cast

import uvicorn

from charladder.serving import log_filter
from charladder.serving.app import Service
from charladder.serving.connections import Connection

_MAX_ACCEPTED_AT_ONCE = 16  # connections accepted before any of them is looked at
_BACKLOG_CONNECTIONS = 1024  # connections that the system keeps until they are accepted


class Server(uvicorn.Server):
    """Asked to end, it ends all texts where they are. Without, they would be waited for, and then cut off in silence.
    Whoever asks twice does not wait for clients that take nothing either."""

    def __init__(self, service: Service, app: Any, graceful: int = 5) -> None:
        """graceful: seconds for which clients are waited for at the end."""
        protocol = functools.partial(Connection, limits=service.limits, idle={})
        config = uvicorn.Config(
            app, http=cast(Any, protocol), ws="none", log_level="warning", access_log=False, lifespan="on",
            timeout_graceful_shutdown=graceful, server_header=False, backlog=_MAX_ACCEPTED_AT_ONCE,
        )  # fmt: skip
        super().__init__(config)
        self.service = service
        log_filter.add_log_filters()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # asyncio accepts as many connections at once as may wait, and logs an error for each that finds no descriptor.
        for one in sockets or []:
            one.listen(_BACKLOG_CONNECTIONS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.service.scorer.close()
        await asyncio.to_thread(self.service.scheduler.close)
        await super().shutdown(sockets)
        if self.force_exit:  # it has left this out, and would cancel what waits for it
            await self.lifespan.shutdown()
