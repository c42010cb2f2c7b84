"""Clients that vanish, dawdle, or come in crowds: nobody else is held up, and nothing of theirs stays."""

import asyncio
import json
import time

import httpx2
import pytest

from serving.served import serving, until

REQUEST = {"prompt": "A lädder ", "max_tokens": 20_000, "stream": True, "seed": 1}


def post(body: dict) -> bytes:
    data = json.dumps(body).encode()
    return (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(data), data)
    )


async def vanish(port: int, received: int, body: dict) -> None:
    """Reads a little, and is gone without a word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(post(body))
    if received:
        await reader.read(received)
    writer.transport.abort()


def quiet(served) -> bool:
    engine = served.service.engine
    return not engine.active and not engine.waiting and not engine.writer.streams


@pytest.mark.parametrize("stream", [True, False])
def test_whoever_vanishes_leaves_nothing(runs, stream):
    with serving(runs / "run", streams=4) as served:

        async def crowd() -> None:
            body = REQUEST | {"stream": stream}
            await asyncio.gather(*(vanish(served.port, 500 * (n % 2) * stream, body) for n in range(60)))

        asyncio.run(crowd())
        until(lambda: quiet(served))
        assert sorted(served.service.engine.free) == [0, 1, 2, 3]
        until(lambda: httpx2.get(f"{served.url}/health").json()["streams"]["active"] == 0)
        answer = httpx2.post(f"{served.url}/v1/completions", json=REQUEST | {"stream": False, "max_tokens": 30})
        assert answer.json()["usage"]["completion_tokens"] == 30


def test_a_client_that_takes_nothing_is_cut_off_and_holds_nobody_up(runs):
    with serving(runs / "run", streams=2, patience=0.5, completion=10_000_000) as served:

        async def scene() -> float:
            _, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
            writer.transport.pause_reading()
            writer.write(post(REQUEST | {"max_tokens": 10_000_000, "logprobs": 20}))
            await asyncio.sleep(0.3)
            began = time.monotonic()
            async with httpx2.AsyncClient() as client:
                answer = await client.post(
                    f"{served.url}/v1/completions", json={"prompt": "a", "max_tokens": 50}, timeout=20
                )
            assert answer.status_code == 200
            taken = time.monotonic() - began
            while not quiet(served):
                await asyncio.sleep(0.05)
                assert time.monotonic() - began < 60
            writer.close()
            return taken

        assert asyncio.run(scene()) < 10


def test_texts_in_a_crowd_are_those_of_one_alone(runs):
    with serving(runs / "run", streams=8) as served:
        bodies = [
            {"prompt": "A lädder " * (1 + n % 3), "max_tokens": 60, "seed": n, "temperature": (0.0, 0.7, 1.0)[n % 3],
             "draft": ("none", "auto", "targets", "ngram")[n % 4]}
            for n in range(24)
        ]  # fmt: skip
        alone = [text(httpx2.post(f"{served.url}/v1/completions", json=body)) for body in bodies]

        async def crowd() -> list[str]:
            async with httpx2.AsyncClient(timeout=60) as client:
                answers = await asyncio.gather(
                    *(client.post(f"{served.url}/v1/completions", json=body) for body in bodies)
                )
            return [text(answer) for answer in answers]

        assert asyncio.run(crowd()) == alone
        assert served.service.engine.writer.passes < sum(len(one) for one in alone) * 4


def text(answer) -> str:
    return answer.raise_for_status().json()["choices"][0]["text"]


def test_texts_that_are_being_written_end_when_the_service_does(runs):
    with serving(runs / "run", completion=10_000_000) as served, httpx2.Client(timeout=30) as client:
        asked = REQUEST | {"max_tokens": 10_000_000}
        with client.stream("POST", f"{served.url}/v1/completions", json=asked) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: ")
            served.service.engine.close()
            said = [line for line in lines if line]
        assert "the service is closing" in said[-2] and said[-1] == "data: [DONE]"
        assert client.post(f"{served.url}/v1/completions", json={"prompt": "a"}).status_code == 429


def test_a_network_that_is_broken_fails_in_one_sentence(runs, monkeypatch):
    with serving(runs / "run") as served:
        read = served.service.engine.writer.reader.read

        def broken(*arguments, **more):
            found = read(*arguments, **more)
            found.logits_NV[:] = float("nan")
            return found

        monkeypatch.setattr(served.service.engine.writer.reader, "read", broken)
        answer = httpx2.post(f"{served.url}/v1/completions", json={"prompt": "abc"})
        assert answer.status_code == 500 and "its weights are broken" in answer.json()["error"]["message"]
        monkeypatch.undo()
        assert httpx2.post(f"{served.url}/v1/completions", json={"prompt": "abc"}).status_code == 200
