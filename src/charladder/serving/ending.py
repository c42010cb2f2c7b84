"""The end of the service: texts that are being written end with a word to whoever reads them, without a traceback."""

import asyncio
import logging
import socket

import uvicorn

from charladder.serving.app import Service


class Server(uvicorn.Server):
    """Asked to end, it ends all texts where they are. Without, they would be waited for, and then cut off in silence.
    Whoever asks twice does not wait for clients that take nothing either."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        logging.getLogger("uvicorn.error").addFilter(worth_telling)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.service.looker.close()
        await asyncio.to_thread(self.service.engine.close)
        await super().shutdown(sockets)
        if self.force_exit:  # it has left this out, and would cancel what waits for it
            await self.lifespan.shutdown()


def worth_telling(record: logging.LogRecord) -> bool:
    """Who was cut off by the end is no error."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
