"""How much does a service write for 64 clients at once, against one; and what do clients leave that vanish?

`charladder serve RUN` in a process of its own, asked over loopback without drafting. First one stream, then so many for
a minute, each asking for its next text as soon as it has one, then one again, all of it so many times; characters as
the service counts them in each event, errors, and how long the first character took. The ratio is the median of the
rounds'. What the crowd makes of the machine's rate of square products (between the rounds, of the better type) is said
too, and what four times the one stream would: where a small network's weights lie in a cache, one stream alone is a
good part of what there is. Then twice as many clients vanish in the middle as are asked for: memory and places of the
service after the first half, and after the second.

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
class Told:
    """What clients saw: characters, seconds to the first of each text, texts that came whole, errors."""

    characters: int = 0
    firsts: list[float] = field(default_factory=list)
    texts: int = 0
    errors: int = 0


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks serving", description=__doc__)
    parser.add_argument("--run", required=True, help="a run directory")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the crowd; one stream has a quarter, twice")
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
    each = operations(options.run, options.length)
    ratios, measured = {}, {}
    for precision in options.precision:
        with served(options.run, precision) as (port, process):
            load = under_load(port, options)
            start = memory(process.pid)
            vanish_all(port, options.vanishing)  # room for so many connections at once is kept: it is made once
            before = memory(process.pid)
            vanish_all(port, options.vanishing)
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


def under_load(port: int, options: argparse.Namespace) -> dict[str, Any]:
    """One stream, the crowd, one stream, so many times: characters a second of each, and what the crowd saw."""
    asyncio.run(ask(port, 1, 2.0, options.length))  # warm
    alone, crowds, products, moment = [], [], [], options.seconds / 4
    for _ in range(options.rounds):
        products.append(max(matrix_rate(), matrix_rate(torch.bfloat16)))
        alone.append(asyncio.run(ask(port, 1, moment, options.length)))
        crowds.append(asyncio.run(ask(port, options.clients, options.seconds, options.length)))
        alone.append(asyncio.run(ask(port, 1, moment, options.length)))
    one = [told.characters / moment for told in alone]
    crowd = [told.characters / options.seconds for told in crowds]
    firsts = sorted(first for told in crowds for first in told.firsts)
    return {
        "one": one, "crowd": crowd, "products": statistics.median(products),
        "ratios": [2 * many / sum(one[2 * n : 2 * n + 2]) for n, many in enumerate(crowd)],
        "texts": sum(told.texts for told in crowds), "errors": sum(told.errors for told in alone + crowds),
        "first_character_median_s": statistics.median(firsts),
        "first_character_99th_s": firsts[min(len(firsts) - 1, int(0.99 * len(firsts)))],
        "one_first_character_median_s": statistics.median(first for told in alone for first in told.firsts),
    }  # fmt: skip


def operations(run: str, length: int) -> int:
    """Of one character, at the middle place of a text: two for each weight that it is multiplied with, and for each
    number of the keys and values that it looks at."""
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
                raise SystemExit(process.wait() or 1)  # it has said why
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


async def ask(port: int, clients: int, seconds: float, length: int) -> Told:
    """So many clients for so long. What comes after the end is not counted."""
    told, end = Told(), time.perf_counter() + seconds
    await asyncio.gather(*(client(port, n, end, length, told) for n in range(clients)))
    return told


async def client(port: int, number: int, end: float, length: int, told: Told) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    seed = number * 1_000_000
    while time.perf_counter() < end:
        began, first, seed = time.perf_counter(), False, seed + 1
        writer.write(request(length, seed))
        tail = b""
        while not tail.endswith(b"0\r\n\r\n"):
            data = await reader.read(65536)
            if not data or b'"error"' in data or (not tail and not data.startswith(b"HTTP/1.1 200")):
                told.errors += 1
                return
            now = time.perf_counter()
            characters = sum(int(n) for n in COUNT.findall(data))
            if characters and not first:
                first = True
                told.firsts.append(now - began)
            if now < end:
                told.characters += characters
            tail = (tail + data)[-64:]
        told.texts += 1
    writer.close()


def vanish_all(port: int, clients: int) -> None:
    """Clients that read a little of a long text and are gone; then waits until their places are free."""

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(5000, number))
        if number % 3:
            await reader.read(2000)
        writer.transport.abort()

    async def everybody() -> None:
        await asyncio.gather(*(one(n) for n in range(clients)))

    asyncio.run(everybody())
    end = time.monotonic() + 60
    while (found := health(port)["streams"])["active"] or found["waiting"]:
        if time.monotonic() > end:
            raise RuntimeError(f"a minute later there are still {found}")
        time.sleep(0.1)


def health(port: int) -> dict:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30) as answer:
        return json.load(answer)


def memory(pid: int) -> int:
    """Bytes that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
