"""A service in a thread of this process, on a free port of loopback."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from charladder.cli.serve import listen
from charladder.run import open_run
from charladder.serving.app import make_app
from charladder.serving.limits import Limits
from charladder.serving.server import Server
from charladder.serving.service import Service, open_service


@dataclass
class Served:
    url: str
    port: int
    service: Service
    server: uvicorn.Server


@contextlib.contextmanager
def serving(
    run: Path, token: str | None = None, access: dict[str, Any] | None = None, **limits: Any
) -> Iterator[Served]:
    """access: further arguments of make_app."""
    service = open_service(open_run(run), Limits(**limits), token)
    listening = listen("127.0.0.1", 0)
    server = Server(service, make_app(service, **access or {}), graceful=2)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    until(lambda: server.started)
    port = listening.getsockname()[1]
    try:
        yield Served(f"http://127.0.0.1:{port}", port, service, server)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
        assert not any(worker.thread.is_alive() for worker in service.scheduler.workers)


def post(body: dict[str, Any], path: bytes = b"/v1/completions") -> bytes:
    """The bytes of an HTTP request."""
    data = json.dumps(body).encode()
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (path, len(data)) + data


def until(condition: Any, seconds: float = 30.0) -> None:
    """Waits for a condition, or fails."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.01)
