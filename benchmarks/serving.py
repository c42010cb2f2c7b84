"""Throughput of the service with 64 clients against one, and the memory that disconnected clients leave.

`charladder serve RUN` runs in its own process, without drafting. A round measures one stream, then 64 clients for a
minute, each of which requests its next text when it has one, then one stream again. The ratio is the median of the
rounds. The throughput is also compared with the machine's rate of square matrix products, measured between the rounds
in the better precision: where the weights fit a cache, one stream alone uses a large part of it. Then clients
disconnect in the middle of their texts, in two equal halves; the memory after each half is compared.

    python -m benchmarks serving --run RUN
"""

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import matrix_rate, report
from charladder.run import open_run

PROMPT = "the quick brown fox "
COUNT = re.compile(rb'"characters":(\d+)')


@dataclass
class ClientStats:
    """Counts of clients. first_seconds: the time to the first character of each text."""

    characters: int = 0
    first_seconds: list[float] = field(default_factory=list)
    texts: int = 0
    errors: int = 0


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks serving", description=__doc__)
    parser.add_argument("--run", required=True, help="a run directory")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0, help="with all clients; one stream: a quarter, twice")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--vanishing", type=int, default=500)
    parser.add_argument("--length", type=int, default=200, help="characters of a text")
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--quick", action="store_true", help="10 seconds, 100 vanishing clients, float32")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.quick:
        options.seconds, options.vanishing, options.precision = 10.0, 100, ["float32"]
    rows = [
        ["", "one, characters/s", "together", "of square products", "four times one",
         "first character, median and 99th", "texts", "errors", "memory after"]
    ]  # fmt: skip
    each = operations_per_character(options.run, options.length)
    ratios, measured = {}, {}
    for precision in options.precision:
        with served(options.run, precision) as (port, process):
            load = measure_load(port, options)
            start = memory(process.pid)
            disconnect_all(port, options.vanishing)  # the first half also allocates room for the connections
            before = memory(process.pid)
            disconnect_all(port, options.vanishing)
            after = memory(process.pid)
            left = health(port)["streams"]
            share = statistics.median(load["ratios"])
            ratios |= {
                f"{precision}_crowd_over_one": share,
                f"{precision}_crowd_of_products": each * statistics.median(load["crowd"]) / load["products"],
                f"{precision}_four_times_one_of_products": 4 * each * statistics.median(load["one"]) / load["products"],
                f"{precision}_memory_after_vanishing_cost": after / before,
            }
            held = {"memory_start": start, "memory_before": before, "memory_after": after, "left": left}
            measured[precision] = load | held
            one, many = statistics.median(load["one"]), statistics.median(load["crowd"])
            first, late = (1000 * load[f"first_character_{which}_s"] for which in ("median", "99th"))
            rows.append(
                [precision, f"{one:,.0f}", f"{many:,.0f} ({share:.2f} times)",
                 f"{ratios[f'{precision}_crowd_of_products']:.2f}",
                 f"{ratios[f'{precision}_four_times_one_of_products']:.2f}", f"{first:.0f} ms, {late:.0f} ms",
                 f"{load['texts']:,}", str(load["errors"]),
                 f"{after / 2**20:.0f} MiB ({(after - before) / 2**20:+.1f}), active {left['active']}"]
            )  # fmt: skip
    settings = {name: getattr(options, name) for name in ("run", "clients", "seconds", "rounds", "length", "vanishing")}
    report("a service and its clients", ratios, measured, settings, rows, options.json)
    return 0


def measure_load(port: int, options: argparse.Namespace) -> dict[str, Any]:
    """The rounds: characters per second of one stream and of all clients, and the counts of the clients."""
    asyncio.run(run_clients(port, 1, 2.0, options.length))  # warm
    alone, crowds, products, one_seconds = [], [], [], options.seconds / 4
    for _ in range(options.rounds):
        products.append(max(matrix_rate(), matrix_rate(torch.bfloat16)))
        alone.append(asyncio.run(run_clients(port, 1, one_seconds, options.length)))
        crowds.append(asyncio.run(run_clients(port, options.clients, options.seconds, options.length)))
        alone.append(asyncio.run(run_clients(port, 1, one_seconds, options.length)))
    one = [stats.characters / one_seconds for stats in alone]
    crowd = [stats.characters / options.seconds for stats in crowds]
    firsts = sorted(first for stats in crowds for first in stats.first_seconds)
    return {
        "one": one, "crowd": crowd, "products": statistics.median(products),
        "ratios": [2 * many / sum(one[2 * n : 2 * n + 2]) for n, many in enumerate(crowd)],
        "texts": sum(stats.texts for stats in crowds), "errors": sum(stats.errors for stats in alone + crowds),
        "first_character_median_s": statistics.median(firsts),
        "first_character_99th_s": firsts[min(len(firsts) - 1, int(0.99 * len(firsts)))],
        "one_first_character_median_s": statistics.median(first for stats in alone for first in stats.first_seconds),
    }  # fmt: skip


def operations_per_character(run: str, length: int) -> int:
    """The operations of one character in the middle of a text: two for each weight, and for each number of the keys
    and values."""
    opened = open_run(Path(run))
    s = opened.recipe.model
    place = min(s.context, len(PROMPT) + length // 2)
    weights = s.layers * s.width * (4 * s.width + 3 * s.feed_forward) + opened.alphabet.size * s.width
    return 2 * weights + 4 * s.layers * s.width * place


@contextmanager
def served(run: str, precision: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "charladder", "serve", run, "--port", "0", "--precision", precision]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.search(r":(\d+)/", process.stdout.readline())
            if found is None:
                raise SystemExit(process.wait() or 1)  # the service has printed the reason
            yield int(found[1]), process
        finally:
            process.terminate()


def request(length: int, seed: int) -> bytes:
    asked = {"prompt": PROMPT, "max_tokens": length, "stream": True, "draft": "none", "seed": seed}
    body = json.dumps(asked).encode()
    return (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )


async def run_clients(port: int, clients: int, seconds: float, length: int) -> ClientStats:
    """Runs clients for some seconds. What arrives later is not counted."""
    stats, end = ClientStats(), time.perf_counter() + seconds
    await asyncio.gather(*(client(port, n, end, length, stats) for n in range(clients)))
    return stats


async def client(port: int, number: int, end: float, length: int, stats: ClientStats) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    seed = number * 1_000_000
    while time.perf_counter() < end:
        began, first, seed = time.perf_counter(), False, seed + 1
        writer.write(request(length, seed))
        tail = b""
        while not tail.endswith(b"0\r\n\r\n"):
            data = await reader.read(65536)
            if not data or b'"error"' in data or (not tail and not data.startswith(b"HTTP/1.1 200")):
                stats.errors += 1
                return
            now = time.perf_counter()
            characters = sum(int(n) for n in COUNT.findall(data))
            if characters and not first:
                first = True
                stats.first_seconds.append(now - began)
            if now < end:
                stats.characters += characters
            tail = (tail + data)[-64:]
        stats.texts += 1
    writer.close()


def disconnect_all(port: int, clients: int) -> None:
    """Clients that read a little of a long text and disconnect; then waits until their streams are free."""

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(5000, number))
        if number % 3:
            await reader.read(2000)
        writer.transport.abort()

    async def all_clients() -> None:
        await asyncio.gather(*(one(n) for n in range(clients)))

    asyncio.run(all_clients())
    end = time.monotonic() + 60
    while (found := health(port)["streams"])["active"] or found["waiting"]:
        if time.monotonic() > end:
            raise RuntimeError(f"after a minute there are still {found}")
        time.sleep(0.1)


def health(port: int) -> dict:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30) as answer:
        return json.load(answer)


def memory(pid: int) -> int:
    """The resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
