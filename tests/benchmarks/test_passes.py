"""The benchmark of generation passes, with a small network."""

import json

import pytest
import torch
from benchmarks.passes import main

from charladder.kernels import native

pytestmark = pytest.mark.skipif(native.library(torch.float32) is None, reason="needs a C compiler")


def test_counts_and_shares(capsys):
    shape = ["--layers", "2", "--width", "32", "--attention-heads", "2", "--feed-forward", "48", "--context", "32"]
    assert main([*shape, "--streams", "1", "4", "--place", "20", "--quick", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    machine, measured = result["measured"].pop("machine"), result["measured"]
    assert list(measured) == [f"{kind}_{n}_streams" for kind in ("float32", "bfloat16") for n in (1, 4)]
    weights, cached = 2 * 32 * (4 * 32 + 3 * 48) + 256 * 32, 2 * 2 * 32 * 21
    assert measured["bfloat16_4_streams"]["bytes"] == 2 * (weights + 4 * cached)
    assert measured["float32_4_streams"]["operations"] == 8 * (weights + cached)
    for name, figures in measured.items():
        rate = figures["operations"] / figures["pass_s"] / machine["products_per_second"]
        assert result["ratios"][f"{name}_of_products"] == pytest.approx(rate)
