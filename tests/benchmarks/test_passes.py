"""The benchmark of passes, on a small network: its keys, and that a share is what it says."""

import json

import pytest
import torch
from benchmarks.passes import main

from charladder.kernels import native

pytestmark = pytest.mark.skipif(native.library(torch.float32) is None, reason="there is no C compiler")


def test_a_share_of_the_machine(capsys):
    shape = ["--layers", "2", "--width", "32", "--attention-heads", "2", "--feed-forward", "48", "--context", "32"]
    assert main([*shape, "--streams", "1", "4", "--place", "20", "--quick", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    machine, found = said["measured"].pop("machine"), said["measured"]
    assert list(found) == [f"{kind}_{n}_streams" for kind in ("float32", "bfloat16") for n in (1, 4)]
    weights, held = 2 * 32 * (4 * 32 + 3 * 48) + 256 * 32, 2 * 2 * 32 * 21
    assert found["bfloat16_4_streams"]["bytes"] == 2 * (weights + 4 * held)
    assert found["float32_4_streams"]["operations"] == 8 * (weights + held)
    for name, figures in found.items():
        rate = figures["operations"] / figures["pass_s"] / machine["products_per_second"]
        assert said["ratios"][f"{name}_of_products"] == pytest.approx(rate)
