"""Shutdown of `charladder serve`: at once, with errors to its clients and without a traceback."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import httpx2
import pytest

from browser.chromium import ENVIRONMENT, URL_PATTERN
from charladder.serving.api_errors import SHUTTING_DOWN
from serving.served import post, serving

SLOW = partial(pytest.param, marks=pytest.mark.slow)
LONG = {"prompt": "A lädder ", "max_tokens": 10_000_000}


# Starts a command with SIGINT ignored, as a shell without job control does in the background.
IGNORE_SIGINT = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]


@contextmanager
def service(run, prefix: tuple[str, ...] = ()) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [
        *prefix,
        sys.executable,
        "-m",
        "charladder",
        "serve",
        str(run),
        "--port",
        "0",
        "--max-tokens",
        "10000000",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        try:
            assert process.stdout
            match = URL_PATTERN.search(process.stdout.readline())
            assert match
            wait_until_it_answers(match[0])
            yield process, match[0]
        finally:
            process.kill()


def wait_until_it_answers(url: str) -> None:
    end = time.monotonic() + 240
    while True:
        try:
            return httpx2.get(f"{url}health").raise_for_status() and None
        except httpx2.TransportError:
            assert time.monotonic() < end
            time.sleep(0.01)


def stop_and_read_stderr(process: subprocess.Popen[str], times: int) -> str:
    """Sends SIGINT `times` times; returns standard error."""
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    return err


@pytest.mark.parametrize("times", [SLOW(1), 2, SLOW(5)])
def test_shutdown_without_clients(runs, times):
    with service(runs / "run") as (process, _):
        assert stop_and_read_stderr(process, times) == "charladder: interrupted\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of a Unix")
def test_parent_process_ignores_sigint(runs):
    with service(runs / "run", (*IGNORE_SIGINT,)) as (process, _):
        assert stop_and_read_stderr(process, 1) == "charladder: interrupted\n"


@pytest.mark.parametrize("times", [1, SLOW(2)])
def test_shutdown_during_a_stream(runs, times):
    with service(runs / "run") as (process, url), httpx2.Client(timeout=60) as client:
        with client.stream("POST", f"{url}v1/completions", json=LONG | {"stream": True}) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("data: ")
            err = stop_and_read_stderr(process, times)
            if times == 1:  # the second signal ends the service before this is sent
                rest = [line for line in lines if line]
                assert json.loads(rest[-2].removeprefix("data: "))["error"]["message"] == SHUTTING_DOWN
                assert rest[-1] == "data: [DONE]"
        assert err == "charladder: interrupted\n"


@pytest.mark.slow
def test_shutdown_with_a_stalled_client(runs):
    """The service waits for the client until the second signal."""
    with service(runs / "run") as (process, url), socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", int(url.rpartition(":")[2].strip("/"))))
        stalled.sendall(post({"ids": [97] * 100_000, "layers": True}, b"/score"))
        stalled.recv(1)
        assert stop_and_read_stderr(process, 2) == "charladder: interrupted\n"


def test_waiting_requests_get_an_error_at_shutdown(runs):
    with serving(runs / "run", max_tokens=10_000_000) as served:
        scorer, scheduler = served.service.scorer, served.service.scheduler

        async def run() -> list[httpx2.Response]:
            async with httpx2.AsyncClient(timeout=60) as client:
                scoring_body = {"text": "x" * 100_000, "layers": True}
                requests = [("v1/completions", LONG), *[("score", scoring_body)] * 8]
                answers = [
                    asyncio.ensure_future(client.post(f"{served.url}/{path}", json=body)) for path, body in requests
                ]
                while not (scorer.num_requests and scheduler.num_active):
                    await asyncio.sleep(0.01)
                served.server.should_exit = True
                return await asyncio.gather(*answers)

        text, *scores = asyncio.run(run())
        assert text.status_code == 503 and SHUTTING_DOWN in text.text
        assert all(score.status_code == 200 or SHUTTING_DOWN in score.text for score in scores)
        assert any(score.status_code == 503 for score in scores)
