"""A small network is decoded in a worker for each core; nobody can tell from the texts."""

import asyncio

import httpx2
import pytest
import torch

from charladder.inference import packed_cpu
from charladder.inference.packed_cpu import PackedRunner
from charladder.run import open_run
from charladder.serving import service
from charladder.serving.service import open_runners
from serving.served import Served, serving, until
from serving.test_clients import REQUEST, counted, quiet, text, vanish


@pytest.fixture
def cores(monkeypatch):
    """Three, and a worker for each, however few streams there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    monkeypatch.setattr(service, "MIN_STREAMS_PER_WORKER", 1)
    yield
    torch.set_num_threads(before)


def test_texts_are_the_same_in_several_batches_as_alone(runs, cores):
    bodies = [
        {"prompt": "lädder "[: 1 + n % 7], "seed": n, "max_tokens": 20 + 30 * (n % 4), "temperature": 0.5 + n % 3 / 4}
        | {"draft": ("auto", "none", "ngram")[n % 3], "top_k": n % 5}
        for n in range(30)
    ]  # fmt: skip
    with serving(runs / "run", streams=7) as served:
        assert [len(worker.free_slots) for worker in served.service.scheduler.workers] == [2, 2, 3]
        alone = [text(httpx2.post(f"{served.url}/v1/completions", json=body)) for body in bodies]
        passes = [worker.loop.passes for worker in served.service.scheduler.workers]
        assert passes[0] and not any(passes[1:])  # whoever comes alone is the first one's

        async def crowd() -> list[str]:
            async with httpx2.AsyncClient(timeout=60) as client:
                answers = await asyncio.gather(
                    *(client.post(f"{served.url}/v1/completions", json=body) for body in bodies)
                )
            return [text(answer) for answer in answers]

        assert asyncio.run(crowd()) == alone
        assert all(worker.loop.passes for worker in served.service.scheduler.workers)
        assert served.service.scheduler.generated_characters == 2 * sum(body["max_tokens"] for body in bodies)
        until(lambda: free(served) == 7)


def test_batches_have_equal_shares(runs, cores):
    with serving(runs / "run", streams=9, max_tokens=10_000_000) as served:
        scheduler = served.service.scheduler
        body = {"prompt": "a", "max_tokens": 10_000_000, "n": 6}

        async def scene() -> None:
            async with httpx2.AsyncClient(timeout=60) as client:
                asking = asyncio.ensure_future(client.post(f"{served.url}/v1/completions", json=body))
                while sum(len(worker.active) for worker in scheduler.workers) < 6:
                    await asyncio.sleep(0.01)
                assert [len(worker.active) for worker in scheduler.workers] == [2, 2, 2]
                assert not any(scheduler.is_only_active(worker.loop.runner) for worker in scheduler.workers)
                asking.cancel()

        asyncio.run(scene())
        until(lambda: quiet(served))
        assert all(scheduler.is_only_active(worker.loop.runner) for worker in scheduler.workers)


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
    assert [reader.slots for reader in open_runners(network, 5, torch.float32)] == [1, 2, 2]
    assert [reader.slots for reader in open_runners(network, 1, torch.float32)] == [1]
    monkeypatch.setattr(service, "MIN_STREAMS_PER_WORKER", 3)
    assert [reader.slots for reader in open_runners(network, 7, torch.float32)] == [3, 4]
    monkeypatch.setattr(packed_cpu, "SHARED_CACHE_BYTES", 0)
    (reader,) = open_runners(network, 5, torch.float32)
    assert isinstance(reader, PackedRunner) and reader.slots == 5


def free(served: Served) -> int:
    return sum(len(worker.free_slots) for worker in served.service.scheduler.workers)
