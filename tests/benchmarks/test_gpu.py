"""The GPU's benchmark, on a CPU and small: what it counts, and that it is ready where a GPU is at hand."""

import json

import pytest
import torch
from benchmarks.gpu import SMALL, operations, trainer

from benchmarks import gpu
from charladder.training import Trainer


def test_operations_are_those_of_all_products_with_all_heads():
    one = trainer("t64", "cpu", SMALL)
    model, heads = one.network.settings, one.objective.heads
    assert len(heads) == 2 * model.layers - 1
    in_layers = model.layers * (4 * model.width**2 + 2 * model.width * model.feed_forward)
    weights = in_layers + (len(heads) + 1) * 256 * model.width
    causal = sum(2 * 2 * (position + 1) * model.width for position in range(model.context)) * model.layers
    assert operations(one) == 3 * one.settings.batch * (model.context * 2 * weights + causal)


def test_its_step_stays_where_all_terms_are_active(monkeypatch):
    active = []
    real = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda one: active.append(len(real(one).report.terms)))
    step = gpu.step_of("t12", "cpu", SMALL)
    for _ in range(3):
        step()
    assert active == 5 * [6]  # two of them before it is timed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
def test_it_reports_shares_and_graphs(capsys):
    torch.compiler.reset()
    assert gpu.main(["--quick", "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["ratios"]) == {
        f"{name}, share of matrix rate" for name in ("t64", "t64, compiled", "t12", "t12, compiled")
    }
    assert found["measured"]["t64, graphs compiled over the schedule"] == 1
