"""The GPU benchmark, with small networks on a CPU."""

import json

import pytest
import torch
from benchmarks.gpu import SMALL, make_trainer, operations

from benchmarks import gpu
from charladder.training import Trainer


def test_operations_include_all_heads():
    trainer = make_trainer("t64", "cpu", SMALL)
    model, heads = trainer.network.settings, trainer.objective.heads
    assert len(heads) == 2 * model.layers - 1
    in_layers = model.layers * (4 * model.width**2 + 2 * model.width * model.feed_forward)
    weights = in_layers + (len(heads) + 1) * 256 * model.width
    causal = sum(2 * 2 * (position + 1) * model.width for position in range(model.context)) * model.layers
    assert operations(trainer) == 3 * trainer.settings.batch * (model.context * 2 * weights + causal)


def test_all_terms_are_active_in_every_step(monkeypatch):
    active = []
    original_step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda trainer: active.append(len(original_step(trainer).report.terms)))
    step = gpu.make_step("t12", "cpu", SMALL)
    for _ in range(3):
        step()
    assert active == 5 * [6]  # two of them before the step is timed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
def test_report(capsys):
    torch.compiler.reset()
    assert gpu.main(["--quick", "--device", "cpu", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["ratios"]) == {
        f"{name}, share of matrix rate" for name in ("t64", "t64, compiled", "t12", "t12, compiled")
    }
    assert result["measured"]["t64, graphs compiled over the schedule"] == 1
