"""A small network is decoded by a worker for each core, and the texts stay the same."""

import asyncio

import httpx2
import pytest
import torch

from charladder.inference.packed_runner import PackedRunner
from charladder.run import open_run
from charladder.serving import service
from charladder.serving.service import open_runners
from serving.served import Served, serving, until
from serving.test_clients import REQUEST, connect_and_abort, is_idle, record_finished, text


@pytest.fixture
def cores(monkeypatch):
    """Three cores, with a worker for each."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    monkeypatch.setattr(service, "MIN_STREAMS_PER_WORKER", 1)
    yield
    torch.set_num_threads(before)


def test_texts_of_several_workers_equal_single_ones(runs, cores):
    bodies = [
        {"prompt": "lädder "[: 1 + n % 7], "seed": n, "max_tokens": 20 + 30 * (n % 4), "temperature": 0.5 + n % 3 / 4}
        | {"draft": ("auto", "none", "ngram")[n % 3], "top_k": n % 5}
        for n in range(30)
    ]  # fmt: skip
    with serving(runs / "run", streams=7) as served:
        assert [len(worker.free_slots) for worker in served.service.scheduler.workers] == [2, 2, 3]
        alone = [text(httpx2.post(f"{served.url}/v1/completions", json=body)) for body in bodies]
        passes = [worker.loop.passes for worker in served.service.scheduler.workers]
        assert passes[0] and not any(passes[1:])  # a single text goes to the first worker

        async def send_all() -> list[str]:
            async with httpx2.AsyncClient(timeout=60) as client:
                answers = await asyncio.gather(
                    *(client.post(f"{served.url}/v1/completions", json=body) for body in bodies)
                )
            return [text(answer) for answer in answers]

        assert asyncio.run(send_all()) == alone
        assert all(worker.loop.passes for worker in served.service.scheduler.workers)
        assert served.service.scheduler.generated_characters == 2 * sum(body["max_tokens"] for body in bodies)
        until(lambda: num_free_slots(served) == 7)


def test_workers_have_equal_shares(runs, cores):
    with serving(runs / "run", streams=9, max_tokens=10_000_000) as served:
        scheduler = served.service.scheduler
        body = {"prompt": "a", "max_tokens": 10_000_000, "n": 6}

        async def run() -> None:
            async with httpx2.AsyncClient(timeout=60) as client:
                asking = asyncio.ensure_future(client.post(f"{served.url}/v1/completions", json=body))
                while sum(len(worker.active) for worker in scheduler.workers) < 6:
                    await asyncio.sleep(0.01)
                assert [len(worker.active) for worker in scheduler.workers] == [2, 2, 2]
                assert not any(scheduler.is_only_active(worker.loop.runner) for worker in scheduler.workers)
                asking.cancel()

        asyncio.run(run())
        until(lambda: is_idle(served))
        assert all(scheduler.is_only_active(worker.loop.runner) for worker in scheduler.workers)


def test_disconnected_clients_free_slots_of_all_workers(runs, cores):
    with serving(runs / "run", streams=4) as served:
        ended = record_finished(served)

        async def send_all() -> None:
            await asyncio.gather(*(connect_and_abort(served.port, 500 * (n % 2), REQUEST) for n in range(40)))

        asyncio.run(send_all())
        until(lambda: len(ended) == 40)
        until(lambda: is_idle(served) and num_free_slots(served) == 4)


def test_large_network_and_single_stream_have_one_worker(runs, cores, monkeypatch):
    network = open_run(runs / "run").load_network()
    assert [runner.slots for runner in open_runners(network, 5, torch.float32)] == [1, 2, 2]
    assert [runner.slots for runner in open_runners(network, 1, torch.float32)] == [1]
    monkeypatch.setattr(service, "MIN_STREAMS_PER_WORKER", 3)
    assert [runner.slots for runner in open_runners(network, 7, torch.float32)] == [3, 4]
    monkeypatch.setattr("charladder.inference.packed_runner.SHARED_CACHE_BYTES", 0)
    (runner,) = open_runners(network, 5, torch.float32)
    assert isinstance(runner, PackedRunner) and runner.slots == 5


def num_free_slots(served: Served) -> int:
    return sum(len(worker.free_slots) for worker in served.service.scheduler.workers)
