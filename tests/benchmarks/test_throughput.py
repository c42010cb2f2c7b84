import json
import time

import pytest
import torch
from benchmarks.contenders import Contender, alternate
from benchmarks.peers import Shape, ours, qwen3, reference, x_transformers

from benchmarks import auxiliary_cost, depth, evaluation, precision, throughput
from charladder.model import ModelConfig, Transformer

TINY = Shape(layers=2, width=32, head=16, feed_forward=64, context=16, batch=2)


def sleeper(seconds):
    return lambda: time.sleep(seconds)


def failing():
    raise RuntimeError("there is no such machine\nand more")


@pytest.mark.slow
def test_contenders_alternate_and_the_absent_say_why():
    fast, slow = Contender("fast", sleeper, {"seconds": 0.01}), Contender("slow", sleeper, {"seconds": 0.1})
    broken = Contender("broken", failing, {})
    alternate([fast, slow, broken], rounds=3)
    assert len(fast.seconds) == len(slow.seconds) == 3
    assert min(fast.seconds) < 0.1 <= min(slow.seconds)  # a busy machine may keep any of them longer
    assert broken.absent == "RuntimeError: there is no such machine" and not broken.seconds
    assert fast.peak_bytes > 0 and not fast.process.is_alive()


def test_operations_are_those_of_the_products():
    network = Transformer(ModelConfig(2, 32, 2, 64, 16), 256)
    weights = sum(p.numel() for name, p in network.named_parameters() if p.ndim == 2 and name != "embedding.weight")
    causal = sum(2 * 2 * (position + 1) * 32 for position in range(16)) * 2  # scores and sums, in two layers
    assert TINY.operations == 3 * 2 * (16 * 2 * weights + causal)


@pytest.mark.filterwarnings(
    "ignore:Mismatch dtype between input and weight"
)  # torch's, of bfloat16 in the plain script
def test_ours_and_the_reference_make_steps():
    torch.manual_seed(0)
    for step in (ours(TINY), reference(TINY, compile=False)):
        step()
        step()


@pytest.mark.slow
@pytest.mark.parametrize("peer", [qwen3, x_transformers])
def test_peers_make_steps(peer):
    pytest.importorskip({"qwen3": "transformers", "x_transformers": "x_transformers"}[peer.__name__])
    peer(TINY, compile=False)()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("benchmark", "words", "ratio"),
    [
        (throughput, ["--quick", "--rounds", "1", "--only", "charladder", "reference"], "over_best_peer"),
        (auxiliary_cost, ["--quick"], "time_cost_all"),
        (depth, ["--quick"], "deep_over_wide"),
        (evaluation, ["--quick"], "time_cost_C/2"),
        (precision, ["--quick"], "speed_of_bfloat16"),
    ],
)
def test_each_reports_its_ratio(benchmark, words, ratio, capsys):
    assert benchmark.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ratios"][ratio] > 0
