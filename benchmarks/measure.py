"""What every benchmark reports beside its figures: the machine, its matrix-product rate, versions, the data."""

import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from charladder.run import machine


def matrix_rate(dtype: torch.dtype = torch.float32, size: int = 1024, repeats: int = 10) -> float:
    """The machine's own rate of matrix products, in operations per second: median of several."""
    a, b = torch.randn(2, size, size).to(dtype)
    seconds = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(seconds[2:])


def report(
    question: str,
    ratios: Mapping[str, float],
    measured: Mapping[str, Any],
    settings: Mapping[str, Any],
    rows: Sequence[Sequence[str]],
    as_json: bool,
) -> None:
    """Prints a table, or one JSON object on standard output with the table on standard error."""
    console = Console(stderr=as_json)
    table = Table(*rows[0], title=question)
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)
    facts = {
        "question": question,
        "ratios": dict(ratios),
        "measured": dict(measured),
        "machine": {**machine(), "matrix_products_per_second_float32": matrix_rate()},
        "settings": {**settings, "versions": {name: metadata.version(name) for name in ("charladder", "torch")}},
    }
    if as_json:
        json.dump(facts, sys.stdout)
        print()
    else:
        rate = facts["machine"]["matrix_products_per_second_float32"] / 1e9
        console.print(f"{facts['machine']['processor']}, {torch.get_num_threads()} threads, {rate:.0f} GFLOP/s float32")
