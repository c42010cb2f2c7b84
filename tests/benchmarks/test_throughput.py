"""The training benchmarks: contenders, peers, reports."""

import json
import time

import pytest
import torch
from benchmarks.contenders import Contender, alternate
from benchmarks.peers import Shape, ours, qwen3, reference, x_transformers

from benchmarks import auxiliary_cost, depth, evaluation, precision, throughput
from charladder.model import ModelConfig, Transformer

TINY = Shape(layers=2, width=32, head=16, feed_forward=64, context=16, batch=2)


def make_sleep(seconds):
    return lambda: time.sleep(seconds)


def make_failing():
    raise RuntimeError("first line\nsecond line")


@pytest.mark.slow
def test_contenders_alternate_and_errors_are_reported():
    fast, slow = Contender("fast", make_sleep, {"seconds": 0.01}), Contender("slow", make_sleep, {"seconds": 0.1})
    broken = Contender("broken", make_failing, {})
    alternate([fast, slow, broken], rounds=3)
    assert len(fast.seconds) == len(slow.seconds) == 3
    assert min(fast.seconds) < 0.1 <= min(slow.seconds)  # on a busy machine, single steps can take longer
    assert broken.absent == "RuntimeError: first line" and not broken.seconds
    assert fast.peak_bytes > 0 and not fast.process.is_alive()


def test_number_of_operations():
    network = Transformer(ModelConfig(2, 32, 2, 64, 16), 256)
    weights = sum(p.numel() for name, p in network.named_parameters() if p.ndim == 2 and name != "embedding.weight")
    causal = sum(2 * 2 * (position + 1) * 32 for position in range(16)) * 2  # scores and sums, in two layers
    assert TINY.operations == 3 * 2 * (16 * 2 * weights + causal)


@pytest.mark.filterwarnings(
    "ignore:Mismatch dtype between input and weight"
)  # torch's, of bfloat16 in the plain script
def test_steps_of_charladder_and_reference():
    torch.manual_seed(0)
    for step in (ours(TINY), reference(TINY, compile=False)):
        step()
        step()


@pytest.mark.slow
@pytest.mark.parametrize("peer", [qwen3, x_transformers])
def test_steps_of_peers(peer):
    pytest.importorskip({"qwen3": "transformers", "x_transformers": "x_transformers"}[peer.__name__])
    peer(TINY, compile=False)()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("benchmark", "arguments", "ratio"),
    [
        (throughput, ["--quick", "--rounds", "1", "--only", "charladder", "reference"], "over_best_peer"),
        (auxiliary_cost, ["--quick"], "time_cost_all"),
        (depth, ["--quick"], "deep_over_wide"),
        (evaluation, ["--quick"], "time_cost_C/2"),
        (precision, ["--quick"], "speed_of_bfloat16"),
    ],
)
def test_reported_ratio(benchmark, arguments, ratio, capsys):
    assert benchmark.main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ratios"][ratio] > 0
