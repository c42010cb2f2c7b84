"""A small network is decoded in a batch for each core; nobody can tell from the texts."""

import asyncio

import httpx2
import pytest
import torch

from charladder.inference import packed_cpu
from charladder.inference.packed_cpu import PackedRunner
from charladder.run import open_run
from charladder.serving import app
from charladder.serving.app import open_readers
from serving.served import Served, serving, until
from serving.test_clients import REQUEST, counted, quiet, text, vanish


@pytest.fixture
def cores(monkeypatch):
    """Three, and a batch for each, however few streams there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    monkeypatch.setattr(app, "LEAST", 1)
    yield
    torch.set_num_threads(before)


def test_texts_are_the_same_in_several_batches_as_alone(runs, cores):
    bodies = [
        {"prompt": "lädder "[: 1 + n % 7], "seed": n, "max_tokens": 20 + 30 * (n % 4), "temperature": 0.5 + n % 3 / 4}
        | {"draft": ("auto", "none", "ngram")[n % 3], "top_k": n % 5}
        for n in range(30)
    ]  # fmt: skip
    with serving(runs / "run", streams=7) as served:
        assert [len(batch.free) for batch in served.service.engine.batches] == [2, 2, 3]
        alone = [text(httpx2.post(f"{served.url}/v1/completions", json=body)) for body in bodies]
        passes = [batch.loop.passes for batch in served.service.engine.batches]
        assert passes[0] and not any(passes[1:])  # whoever comes alone is the first one's

        async def crowd() -> list[str]:
            async with httpx2.AsyncClient(timeout=60) as client:
                answers = await asyncio.gather(
                    *(client.post(f"{served.url}/v1/completions", json=body) for body in bodies)
                )
            return [text(answer) for answer in answers]

        assert asyncio.run(crowd()) == alone
        assert all(batch.loop.passes for batch in served.service.engine.batches)
        assert served.service.engine.characters == 2 * sum(body["max_tokens"] for body in bodies)
        until(lambda: free(served) == 7)


def test_batches_have_equal_shares(runs, cores):
    with serving(runs / "run", streams=9, completion=10_000_000) as served:
        engine = served.service.engine
        body = {"prompt": "a", "max_tokens": 10_000_000, "n": 6}

        async def scene() -> None:
            async with httpx2.AsyncClient(timeout=60) as client:
                asking = asyncio.ensure_future(client.post(f"{served.url}/v1/completions", json=body))
                while sum(len(batch.active) for batch in engine.batches) < 6:
                    await asyncio.sleep(0.01)
                assert [len(batch.active) for batch in engine.batches] == [2, 2, 2]
                assert not any(engine.alone(batch.loop.runner) for batch in engine.batches)
                asking.cancel()

        asyncio.run(scene())
        until(lambda: quiet(served))
        assert all(engine.alone(batch.loop.runner) for batch in engine.batches)


def test_whoever_vanishes_from_one_of_several_batches_leaves_nothing(runs, cores):
    with serving(runs / "run", streams=4) as served:
        ended = counted(served)

        async def crowd() -> None:
            await asyncio.gather(*(vanish(served.port, 500 * (n % 2), REQUEST) for n in range(40)))

        asyncio.run(crowd())
        until(lambda: len(ended) == 40)
        until(lambda: quiet(served) and free(served) == 4)


def test_a_large_network_and_a_single_stream_have_one_batch(runs, cores, monkeypatch):
    network = open_run(runs / "run").network()
    assert [reader.slots for reader in open_readers(network, 5, torch.float32)] == [1, 2, 2]
    assert [reader.slots for reader in open_readers(network, 1, torch.float32)] == [1]
    monkeypatch.setattr(app, "LEAST", 3)
    assert [reader.slots for reader in open_readers(network, 7, torch.float32)] == [3, 4]
    monkeypatch.setattr(packed_cpu, "SHARED_CACHE_BYTES", 0)
    (reader,) = open_readers(network, 5, torch.float32)
    assert isinstance(reader, PackedRunner) and reader.slots == 5


def free(served: Served) -> int:
    return sum(len(batch.free) for batch in served.service.engine.batches)
