"""uvicorn with an orderly shutdown: active requests end with an error, and no traceback is logged."""

import asyncio
import functools
import socket
from typing import Any, cast

import uvicorn

from charladder.serving import log_filter
from charladder.serving.connections import Connection
from charladder.serving.service import Service

_MAX_ACCEPTED_AT_ONCE = 16  # before any of them is handled
_BACKLOG_CONNECTIONS = 1024  # that the system queues until they are accepted


class Server(uvicorn.Server):
    """Ends all texts with an error at the first signal; uvicorn alone would wait for them and then drop them. At the
    second signal it does not wait for clients either."""

    def __init__(self, service: Service, app: Any, graceful: int = 5) -> None:
        """graceful: seconds to wait for clients at shutdown."""
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
        # asyncio accepts as many connections at once as its backlog, and logs an error for each without a descriptor.
        for listening in sockets or []:
            listening.listen(_BACKLOG_CONNECTIONS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.service.scorer.close()
        await asyncio.to_thread(self.service.scheduler.close)
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn skips the lifespan then
            await self.lifespan.shutdown()
