"""Connections without a request, or with too large a one, do not affect other clients."""

import asyncio
import contextlib
import json
import logging
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx2
import pytest

from browser.chromium import ENVIRONMENT, URL_PATTERN
from charladder.serving.connections import RESERVED_DESCRIPTORS, limit_connections, num_open_descriptors
from charladder.serving.limits import Limits
from charladder.serving.log_filter import RepeatFilter
from serving.served import Served, post, serving, until
from serving.test_clients import REQUEST, connect_and_abort, record_finished

HALF = b"POST /score HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextlib.contextmanager
def connected(served: Served, data: bytes = b"", count: int = 1) -> Iterator[list[socket.socket]]:
    """`count` connections that have sent `data`."""
    with contextlib.ExitStack() as stack:
        connections = [socket.create_connection(("127.0.0.1", served.port), timeout=20) for _ in range(count)]
        for connection in connections:
            stack.callback(connection.close)
            connection.sendall(data)
        yield connections


def answer(connection: socket.socket) -> bytes:
    """The bytes received until the service closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            received += part
    return received


def answers(connection: socket.socket, count: int) -> list[dict]:
    """The bodies of `count` JSON responses with status 200, on a connection that stays open."""
    file, bodies = connection.makefile("rb"), []
    for _ in range(count):
        assert file.readline().split()[1] == b"200"
        length = 0
        while (line := file.readline()).strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        bodies.append(json.loads(file.read(length)))
    return bodies


def test_idle_connections_are_closed_for_new_requests(runs):
    with serving(runs / "run", connections=8) as served, connected(served, HALF, 40) as halves:
        for _ in range(5):
            assert httpx2.get(f"{served.url}/health").status_code == 200
        until(lambda: len(served.server.server_state.connections) <= 8)
        assert answer(halves[0]) == b""  # the oldest one was closed


def test_busy_connections_are_kept_and_new_ones_get_503(runs):
    with serving(runs / "run", connections=2, max_tokens=10_000_000) as served, httpx2.Client() as client:
        body = REQUEST | {"max_tokens": 10_000_000}
        with connected(served, post(body), 2) as (first, second):
            assert first.recv(20) and second.recv(20)
            with connected(served, GET) as (late,):
                response = answer(late)
            assert response.split()[1] == b"503" and b"2 connections have requests" in response
            assert json.loads(response.partition(b"\r\n\r\n")[2])["error"]["type"] == "server_error"
        until(lambda: client.get(f"{served.url}/health").status_code == 200)


def test_slow_request_head_gets_408(runs):
    with serving(runs / "run", client_seconds=0.3) as served:
        for before in (b"", GET):
            with connected(served, before) as (slow,):
                if before:
                    answers(slow, 1)
                slow.sendall(HALF)
                response = answer(slow)
            assert response.split()[1] == b"408" and b"did not come in time" in response


def test_silent_connection_is_closed(runs):
    with serving(runs / "run", client_seconds=0.3) as served, connected(served) as (silent,):
        assert answer(silent) == b""


def test_slow_head_does_not_abort_the_previous_response(runs):
    with serving(runs / "run", client_seconds=0.3, max_tokens=10_000_000) as served:
        body = REQUEST | {"max_tokens": 10_000_000}
        with connected(served, post(body) + HALF) as (client,):
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                assert client.recv(1 << 16)


LARGE = {
    "one header": HALF + b"x" * 200_000,
    "many headers": HALF + b"".join(b"x\r\nX-%d: " % n for n in range(20_000)),
    "an address": b"GET /" + b"a" * 200_000,
    "trailers": post({})[:-2].replace(b"Content-Length: 2", b"Transfer-Encoding: chunked")
    + b"2\r\n{}\r\n0\r\n"
    + b"X: y\r\n" * 30_000,
    "the size of a chunk": post({})[:-2].replace(b"Content-Length: 2", b"Transfer-Encoding: chunked")
    + b"2;"
    + b"x" * 200_000,
}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(data, id=name, marks=[pytest.mark.slow] * (index > 0))
        for index, (name, data) in enumerate(LARGE.items())
    ],
)
def test_large_head_is_refused_before_the_token_check(runs, data):
    with serving(runs / "run", token="sesame") as served, connected(served) as (client,):
        with contextlib.suppress(ConnectionError):
            client.sendall(data)
        response = answer(client)
        # In the body the application may answer first, as it does to the missing token.
        assert response.split()[1] == b"431" or (b"chunked" in data and response.split()[1] == b"401")
        until(lambda: not served.server.server_state.connections)


@pytest.mark.parametrize(("size", "status"), [(Limits.head_bytes, b"200"), (Limits.head_bytes + 1, b"431")])
def test_head_size_limit_is_exact(served, size, status):
    before, after = GET[:-2] + b"X-Long: ", b"\r\nConnection: close\r\n\r\n"
    with connected(served, before + b"x" * (size - len(before) - len(after)) + after) as (client,):
        assert answer(client).split()[1] == status


def test_two_host_headers_give_400(served):
    with connected(served, GET[:-2] + b"Host: other.example\r\nConnection: close\r\n\r\n") as (client,):
        response = answer(client)
        assert response.split()[1] == b"400" and b"more than one `Host` header" in response


def test_too_many_pipelined_requests_abort_the_connection(served):
    with connected(served, GET * 5) as (client,):
        assert len(answers(client, 5)) == 5
    with connected(served) as (client,):
        with contextlib.suppress(ConnectionError):
            client.sendall(GET * 20_000)
        assert answer(client).count(b"HTTP/1.1 200") < 20_000
    assert httpx2.get(f"{served.url}/health").status_code == 200


@pytest.mark.parametrize("split", [0, 3, 10_000], ids=["head and body apart", "in the body", "together"])
@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_upgrade_header_is_ignored(served, protocol, split):
    """Java's HttpClient sends it with every first request."""
    data = post({"text": "abc"}, b"/score")
    head, _, body = data.partition(b"\r\n\r\n")
    head += b"\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol + b"\r\nHTTP2-Settings: AAEAAEAA\r\n\r\n"
    with connected(served) as (client,):
        for _ in range(2):  # the connection goes on
            client.sendall(head + body[:split])
            time.sleep(0.05)
            client.sendall(body[split:])
        first, second = answers(client, 2)
        assert first["characters"] == second["characters"] == 3


def test_connect_is_refused(served):
    with connected(served, b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n") as (client,):
        assert answer(client).split()[1] in (b"400", b"405")


def test_http_1_0_gets_no_chunked_encoding(served):
    for stream in (False, True):
        data = post({"prompt": "abc", "max_tokens": 30, "stream": stream, "seed": 1}).replace(b"HTTP/1.1", b"HTTP/1.0")
        with connected(served, data) as (client,):
            head, _, body = answer(client).partition(b"\r\n\r\n")
        assert b"chunked" not in head.lower() and b"connection: close" in head.lower()
        if stream:
            lines = [line for line in body.split(b"\n") if line]
            assert all(line.startswith(b"data: ") for line in lines) and lines[-1] == b"data: [DONE]"
        else:
            assert json.loads(body)["usage"]["completion_tokens"] == 30


def test_disconnections_are_not_logged(runs, caplog):
    """The event loop logs a line for each part of an answer that is written to a closed connection."""
    for name in ("asyncio", "uvicorn.error"):
        for log_filter in list(logging.getLogger(name).filters):
            logging.getLogger(name).removeFilter(log_filter)
    with serving(runs / "run", client_seconds=0.5, max_tokens=10_000_000, logprobs=10**9) as served:
        for name in ("asyncio", "uvicorn.error"):
            for log_filter in list(logging.getLogger(name).filters):
                logging.getLogger(name).removeFilter(log_filter)
        ended = record_finished(served)

        async def large() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(post({"ids": [97] * 20_000, "layers": True}, b"/score"))
            await reader.read(1000)
            writer.transport.abort()

        async def send_all() -> None:
            await asyncio.gather(*(connect_and_abort(served.port, 500 * (n % 2), REQUEST) for n in range(10)))
            await large()

        asyncio.run(send_all())
        until(lambda: len(ended) == 11)
    assert not [record.getMessage() for record in caplog.records if record.name in ("asyncio", "uvicorn.error")]


def test_repeated_records_are_logged_once_a_minute():
    sparing = RepeatFilter()

    def passes(message: str, error: BaseException | None = None) -> bool:
        information = (type(error), error, error.__traceback__) if error else None
        return sparing.filter(logging.LogRecord("x", logging.ERROR, "", 0, message, None, information))

    assert passes("one") and passes("other") and not passes("one")
    assert passes("failed", ValueError("a")) and not passes("failed", ValueError("b")) and passes("failed", KeyError())
    assert not passes("cut off", asyncio.CancelledError())
    sparing.logged_at = {key: when - 61 for key, when in sparing.logged_at.items()}
    assert passes("one")


@pytest.mark.parametrize(
    ("soft", "hard", "most", "raised"),
    [(256, 256, 256, None), (256, 1 << 20, 2048, 2048), (256, 1024, 1024, 1024), (1 << 20, 1 << 20, 2048, None)],
)
def test_connections_fit_the_open_file_limit(monkeypatch, soft, hard, most, raised):
    """most: the number of connections, and of other open files where the limit of files is reached."""
    new_limits = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: new_limits.append(limits))
    num_connections, num_other_files = limit_connections(2048), num_open_descriptors() + RESERVED_DESCRIPTORS
    assert num_connections == (most if most == 2048 else most - num_other_files)
    expected = None if raised is None else (raised + (num_other_files if raised == 2048 else 0), hard)
    assert new_limits == ([] if expected is None else [expected]) or soft == hard


@pytest.mark.slow
def test_few_descriptors_and_many_idle_connections(runs, tmp_path):
    command = f"ulimit -n 256; exec {sys.executable} -m charladder serve {runs / 'run'} --port 0"
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE, stderr=log, env=ENVIRONMENT) as process,
    ):
        try:
            assert process.stdout
            match = URL_PATTERN.search(process.stdout.readline().decode())
            assert match
            url = match[0]
            until(lambda: reached(url), 240)
            with contextlib.ExitStack() as stack:
                for _ in range(300):
                    connection = socket.create_connection(("127.0.0.1", int(re.findall(r"\d+", url)[-1])))
                    stack.callback(connection.close)
                    connection.sendall(HALF)
                for _ in range(20):
                    assert reached(url)
        finally:
            process.kill()
    assert (tmp_path / "log").read_text().count("\n") < 5


def reached(url: str) -> bool:
    try:
        return httpx2.get(f"{url}health", timeout=60).status_code == 200
    except httpx2.TransportError:
        return False
