"""Clients that disconnect, stall, or come in large numbers delay no other client and leave no state."""

import asyncio
import contextlib
import socket
import time
from dataclasses import replace

import httpx2
import pytest
import torch

from charladder.generation.speculative import NgramDrafter
from charladder.serving.scoring import RequestCancelled
from serving.served import Served, post, serving, until

REQUEST = {"prompt": "A lädder ", "max_tokens": 20_000, "stream": True, "seed": 1}


async def connect_and_abort(port: int, received: int, body: dict) -> None:
    """Reads a little, and aborts the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(post(body))
    if received:
        await reader.read(received)
    writer.transport.abort()


def record_finished(served: Served) -> list[str]:
    """A list that grows by the path of each finished request."""
    app, ended = served.server.config.loaded_app, []

    async def counting(scope, receive, send) -> None:
        try:
            await app(scope, receive, send)
        finally:
            ended.append(scope["path"])

    served.server.config.loaded_app = counting
    return ended


def is_idle(served) -> bool:
    scheduler = served.service.scheduler
    return (
        not scheduler.num_active
        and not scheduler.waiting
        and not any(worker.loop.sequences for worker in scheduler.workers)
    )


@pytest.mark.parametrize("stream", [True, False])
def test_disconnected_clients_free_their_streams(runs, stream):
    with serving(runs / "run", streams=4) as served:
        ended = record_finished(served)

        async def send_all() -> None:
            body = REQUEST | {"stream": stream}
            await asyncio.gather(*(connect_and_abort(served.port, 500 * (n % 2) * stream, body) for n in range(60)))

        asyncio.run(send_all())
        until(lambda: len(ended) == 60)
        until(lambda: is_idle(served) and sorted(served.service.scheduler.workers[0].free_slots) == [0, 1, 2, 3])
        until(lambda: httpx2.get(f"{served.url}/health").json()["streams"]["active"] == 0)
        answer = httpx2.post(f"{served.url}/v1/completions", json=REQUEST | {"stream": False, "max_tokens": 30})
        assert answer.json()["usage"]["completion_tokens"] == 30


def test_stalled_client_is_disconnected_and_delays_no_other(runs):
    with serving(runs / "run", streams=2, client_seconds=0.5, max_tokens=10_000_000, logprobs=10**9) as served:

        async def run() -> float:
            _, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
            writer.transport.pause_reading()
            writer.write(post(REQUEST | {"max_tokens": 10_000_000, "logprobs": 20}))
            while not served.service.scheduler.num_active:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            began = time.monotonic()
            async with httpx2.AsyncClient() as client:
                answer = await client.post(
                    f"{served.url}/v1/completions", json={"prompt": "a", "max_tokens": 50}, timeout=20
                )
            assert answer.status_code == 200
            seconds = time.monotonic() - began
            while not is_idle(served):
                await asyncio.sleep(0.05)
                assert time.monotonic() - began < 60
            writer.close()
            return seconds

        assert asyncio.run(run()) < 10


def test_concurrent_texts_equal_single_ones(runs):
    with serving(runs / "run", streams=8) as served:
        bodies = [
            {"prompt": "A lädder " * (1 + n % 3), "max_tokens": 60, "seed": n, "temperature": (0.0, 0.7, 1.0)[n % 3],
             "draft": ("none", "auto", "targets", "ngram")[n % 4]}
            for n in range(24)
        ]  # fmt: skip
        alone = [text(httpx2.post(f"{served.url}/v1/completions", json=body)) for body in bodies]

        async def send_all() -> list[str]:
            async with httpx2.AsyncClient(timeout=60) as client:
                answers = await asyncio.gather(
                    *(client.post(f"{served.url}/v1/completions", json=body) for body in bodies)
                )
            return [text(answer) for answer in answers]

        assert asyncio.run(send_all()) == alone
        assert served.service.scheduler.workers[0].loop.passes < sum(map(len, alone)) * 4


def text(answer) -> str:
    return answer.raise_for_status().json()["choices"][0]["text"]


def test_active_streams_end_with_an_error_at_shutdown(runs):
    with serving(runs / "run", max_tokens=10_000_000) as served, httpx2.Client(timeout=30) as client:
        body = REQUEST | {"max_tokens": 10_000_000}
        with client.stream("POST", f"{served.url}/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: ")
            served.service.scheduler.close()
            events = [line for line in lines if line]
        assert "the service is closing" in events[-2] and events[-1] == "data: [DONE]"
        assert client.post(f"{served.url}/v1/completions", json={"prompt": "a"}).status_code == 429


def test_nan_logits_give_a_500_error(runs, monkeypatch):
    with serving(runs / "run") as served:
        read = served.service.scheduler.workers[0].loop.runner.run

        def broken(*arguments, **options):
            output = read(*arguments, **options)
            output.logits_NV[:] = float("nan")
            return output

        monkeypatch.setattr(served.service.scheduler.workers[0].loop.runner, "run", broken)
        answer = httpx2.post(f"{served.url}/v1/completions", json={"prompt": "abc"})
        assert answer.status_code == 500 and "its weights are broken" in answer.json()["error"]["message"]
        monkeypatch.undo()
        assert httpx2.post(f"{served.url}/v1/completions", json={"prompt": "abc"}).status_code == 200


def test_disconnection_cancels_scoring(runs):
    with serving(runs / "run") as served:
        scorer, stopped = served.service.scorer, []
        score = scorer.score

        def watched(*arguments):
            try:
                return score(*arguments)
            except RequestCancelled:
                stopped.append(True)
                raise

        scorer.score = watched

        async def run() -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(post({"text": "x" * 100_000, "layers": True}, b"/score"))
            while not scorer.num_requests:
                await asyncio.sleep(0.01)
            writer.transport.abort()

        asyncio.run(run())
        until(lambda: not scorer.num_requests)
        assert httpx2.post(f"{served.url}/score", json={"text": "abc"}, timeout=60).status_code == 200
        assert stopped


def test_echo_is_refused_when_the_scoring_queue_is_full(runs):
    with serving(runs / "run", scorings=1) as served:
        served.service.scorer.num_requests = 1
        for stream in (False, True):
            body = {"prompt": "abc", "echo": True, "logprobs": 1, "stream": stream}
            answer = httpx2.post(f"{served.url}/v1/completions", json=body)
            assert answer.status_code == 429 and "are being scored" in answer.json()["error"]["message"]
        assert is_idle(served)


@pytest.mark.slow
def test_stalled_response_aborts_its_connection(runs):
    """Also for a response that is not a stream."""
    with serving(runs / "run", client_seconds=5) as served, socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", served.port))
        stalled.sendall(post({"ids": [97] * 100_000, "layers": True}, b"/score"))
        until(lambda: served.service.scorer.num_requests)
        middleware = served.server.config.app.app
        middleware.limits = replace(middleware.limits, client_seconds=0.5)  # the body has been received
        until(lambda: not served.service.scorer.num_requests, 60)
        until(lambda: not served.server.server_state.connections, 60)
        stalled.settimeout(5)
        num_bytes = 0
        with contextlib.suppress(ConnectionError):
            while part := stalled.recv(1 << 20):
                num_bytes += len(part)
        assert num_bytes < 6_000_000  # the whole answer has some twelve million bytes


def test_failed_start_affects_one_text_and_frees_its_slot(runs, monkeypatch):
    with serving(runs / "run", streams=2) as served:
        (worker,) = served.service.scheduler.workers
        get_config = worker.decoding_configs.get

        def broken(sampling, draft):
            if draft == "targets":
                raise OSError("the heads are gone")
            return get_config(sampling, draft)

        monkeypatch.setattr(worker.decoding_configs, "get", broken)
        with httpx2.Client(timeout=60) as client:
            body = REQUEST | {"draft": "none", "max_tokens": 3000}
            with client.stream("POST", f"{served.url}/v1/completions", json=body) as answer:
                lines = answer.iter_lines()
                next(lines)
                failed = httpx2.post(f"{served.url}/v1/completions", json={"prompt": "a", "draft": "targets"})
                assert failed.status_code == 500
                assert "failed to generate this text; see its log" in failed.json()["error"]["message"]
                assert "error" not in "".join(lines)
        until(lambda: sorted(worker.free_slots) == [0, 1])


def test_drafters_keep_no_state_of_finished_texts(runs):
    with serving(runs / "run", streams=4) as served:
        for draft in ("auto", "ngram"):
            body = {"prompt": list(range(97, 107)) * 3000, "max_tokens": 60, "n": 3, "draft": draft}
            assert httpx2.post(f"{served.url}/v1/completions", json=body, timeout=60).status_code == 200
        until(lambda: is_idle(served))
        drafters = []
        for config in served.service.scheduler.workers[0].decoding_configs.cache.values():
            drafter = getattr(config.drafter, "drafter", config.drafter)
            drafters += [c.drafter for c in getattr(drafter, "candidates", [])] or [drafter]
        ngrams = {id(drafter): drafter for drafter in drafters if isinstance(drafter, NgramDrafter)}.values()
        assert len(ngrams) == 2
        assert all(
            ngram.max_characters == 4096 and not (ngram.texts or ngram.latest or ngram.indexed) for ngram in ngrams
        )


@pytest.mark.parametrize(("length", "stop"), [(0, None), (1, None), (50, "A"), (50, None)])
def test_accepted_per_pass_is_never_less_than_one(runs, length, stop):
    with serving(runs / "run") as served:
        for draft in ("none", "ngram"):
            body = {"prompt": "A lädder ", "max_tokens": length, "stop": stop, "draft": draft}
            answer = httpx2.post(f"{served.url}/v1/completions", json=body).json()
            details = answer["choices"][0]["charladder"]
            assert details["accepted_per_pass"] >= 1.0 and (draft != "none" or details["accepted_per_pass"] == 1.0)


def test_scoring_with_nan_weights_gives_a_500_error(runs):
    with serving(runs / "run") as served:
        with torch.no_grad():
            served.service.scorer.network.embedding.weight.fill_(float("nan"))
        for path, body in (("score", {"text": "abc"}), ("layers", {"text": "abc", "place": 1})):
            answer = httpx2.post(f"{served.url}/{path}", json=body)
            assert answer.status_code == 500 and "its weights are broken" in answer.json()["error"]["message"]
