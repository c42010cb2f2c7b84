"""The report of a benchmark, with machine, matrix-product rate and versions."""

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

from charladder.environment import describe_machine


def product_rate(
    dtype: torch.dtype, rows: int, inner: int, columns: int, device: torch.device | str = "cpu", repeats: int = 10
) -> float:
    """A device's operations per second in a matrix product, the median of `repeats`. The second matrix is transposed,
    as in a linear layer."""
    a, b = torch.randn(rows, inner, device=device).to(dtype), torch.randn(columns, inner, device=device).to(dtype)
    seconds = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        torch.mm(a, b.mT)
        if a.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return 2 * rows * inner * columns / statistics.median(seconds[2:])


def matrix_rate(dtype: torch.dtype = torch.float32, size: int = 1024, device: torch.device | str = "cpu") -> float:
    """A device's operations per second in a product of square matrices."""
    return product_rate(dtype, size, size, size, device)


def report(
    question: str,
    ratios: Mapping[str, float],
    measured: Mapping[str, Any],
    settings: Mapping[str, Any],
    rows: Sequence[Sequence[str]],
    as_json: bool,
) -> None:
    """Prints a table; with `as_json`, the table to standard error and a JSON object to standard output."""
    console = Console(stderr=as_json)
    table = Table(*rows[0], title=question)
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)
    result = {
        "question": question,
        "ratios": dict(ratios),
        "measured": dict(measured),
        "machine": {**describe_machine(), "matrix_products_per_second_float32": matrix_rate()},
        "settings": {**settings, "versions": {name: metadata.version(name) for name in ("charladder", "torch")}},
    }
    if as_json:
        json.dump(result, sys.stdout)
        print()
    else:
        rate = result["machine"]["matrix_products_per_second_float32"] / 1e9
        console.print(
            f"{result['machine']['processor']}, {torch.get_num_threads()} threads, {rate:.0f} GFLOP/s float32"
        )
