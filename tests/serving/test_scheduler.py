"""Requests in the queue: their streams send comments, and they expire."""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace

import httpx2
import openai
import pytest

from charladder.serving import event_stream
from serving.served import Served, serving, until

LONG = {"prompt": "a", "max_tokens": 10_000_000}


@contextlib.contextmanager
def busy_service(runs, seconds: float) -> Iterator[Served]:
    """A service with one stream, which is busy; later requests have `seconds`."""
    with serving(runs / "run", streams=1, max_tokens=10_000_000) as served:
        with httpx2.stream("POST", f"{served.url}/v1/completions", json=LONG | {"stream": True}, timeout=60) as first:
            lines = first.iter_lines()  # a reference, because its end closes the connection
            next(lines)
            completions, scheduler = served.service.completions, served.service.scheduler
            completions.limits = scheduler.limits = replace(completions.limits, seconds=seconds)
            yield served
        until(lambda: not served.service.scheduler.num_active)


@pytest.mark.parametrize("stream", [False, True])
def test_request_expires_in_the_queue(runs, stream):
    """Before anything was sent, by the status of the response."""
    with (
        busy_service(runs, 0.3) as served,
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client,
    ):
        with pytest.raises(openai.InternalServerError, match="no stream became free within") as caught:
            client.completions.create(model="run", prompt="a", stream=stream)
        assert caught.value.status_code == 503 and caught.value.response.headers["retry-after"] == "1"
        assert caught.value.type == "server_error"
        assert served.service.scheduler.num_active == 1 and not served.service.scheduler.waiting


def test_waiting_stream_sends_comments_and_then_its_error(runs, monkeypatch):
    monkeypatch.setattr(event_stream, "FIRST_COMMENT_SECONDS", 0.1)
    monkeypatch.setattr(event_stream, "KEEPALIVE_SECONDS", 0.1)
    with busy_service(runs, 1.0) as served:
        answer = httpx2.post(f"{served.url}/v1/completions", json=LONG | {"stream": True}, timeout=60)
    assert answer.status_code == 200
    first, *comments, error, done = [line for line in answer.text.split("\n") if line]
    assert {first, *comments} == {": waiting"} and done == "data: [DONE]"
    error = json.loads(error.removeprefix("data: "))["error"]
    assert error["message"].startswith("no stream became free") and error["code"] == "503"


def test_comments_before_the_text_are_ignored(runs, monkeypatch):
    monkeypatch.setattr(event_stream, "FIRST_COMMENT_SECONDS", 0.01)
    monkeypatch.setattr(event_stream, "KEEPALIVE_SECONDS", 0.01)
    with busy_service(runs, 300) as served:
        body = {"prompt": "a", "max_tokens": 300, "seed": 1}
        with httpx2.stream("POST", f"{served.url}/v1/completions", json=body | {"stream": True}, timeout=60) as waiting:
            lines = waiting.iter_lines()
            assert next(lines) == ": waiting"
            served.service.scheduler.cancel(served.service.scheduler.workers[0].active)
            pieces = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        response = httpx2.post(f"{served.url}/v1/completions", json=body).json()
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == response["choices"][0]["text"]


def test_choices_of_a_request_expire_together(runs):
    with serving(runs / "run", streams=1, seconds=1.0, max_tokens=10_000_000) as served:
        answer = httpx2.post(f"{served.url}/v1/completions", json=LONG | {"n": 2}, timeout=60)
    assert answer.status_code == 503


def test_scoring_expires_in_the_queue(runs):
    with serving(runs / "run", seconds=0.3) as served:
        executor = served.service.scorer.executor

        def block_until_expired() -> None:
            until(lambda: executor._work_queue.qsize() > 0)
            time.sleep(0.4)

        executor.submit(block_until_expired)
        answer = httpx2.post(f"{served.url}/score", json={"text": "abc"}, timeout=60)
    assert answer.status_code == 503 and "scoring did not begin" in answer.json()["error"]["message"]
