"""accelerate and Lightning: autocast and checkpoints.

Their gradients are those of losses written by hand in test_support.py, and with two ranks in
test_frameworks_two_ranks.py.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.utils.data import DataLoader

from auxiliary.features import CLASSES, WEIGHT, WIDTH, Network, data, fill_parameters
from auxiliary.framework_cells import Automatic
from charladder import auxiliary as aux


def make() -> tuple[Network, aux.Objective]:
    network = Network()
    early = aux.Term(F.cross_entropy, tap="blocks.0", head=nn.Linear(WIDTH, CLASSES), weight=WEIGHT)
    objective = aux.Objective(aux.Term(F.cross_entropy), {"early": early}, model=network)
    fill_parameters(network, 0)
    fill_parameters(objective, 1)
    return network, objective


def values(*modules: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for module in modules for p in module.parameters()]


@pytest.fixture
def accelerator_state():
    """accelerate keeps its precision in the process."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.slow
def test_prepared_objective_runs_under_autocast(accelerator_state):
    network, objective = make()
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    model, prepared = accelerator.prepare(network, objective)
    x, y = data(torch.float32)
    accelerator.backward(prepared(model, x, y).total)
    found = [p.grad for p in [*network.parameters(), *objective.parameters()]]
    network, objective = make()
    with torch.autocast("cpu", torch.bfloat16):
        states = network.states(x)
        early = F.cross_entropy(objective.heads["early"](states[0]), y)
        loss = F.cross_entropy(network.last(states[-1]), y) + WEIGHT * early
    wanted = torch.autograd.grad(loss, [*network.parameters(), *objective.parameters()])
    torch.testing.assert_close(found, list(wanted), rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_checkpoints_of_accelerate_have_the_heads(accelerator_state, tmp_path):
    network, objective = make()
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.AdamW([*network.parameters(), *objective.parameters()])
    model, prepared, optimizer = accelerator.prepare(network, objective, optimizer)
    before = values(network, objective)
    accelerator.save_state(str(tmp_path))
    accelerator.backward(prepared(model, *data(torch.float32)).total)
    optimizer.step()
    assert not any(torch.equal(one, other) for one, other in zip(values(network, objective), before, strict=True))
    accelerator.load_state(str(tmp_path))
    assert all(torch.equal(one, other) for one, other in zip(values(network, objective), before, strict=True))


def fit(folder: Path, epochs: int, **options: Any) -> tuple[Automatic, lightning.Trainer]:
    module = Automatic(*make())
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about few workers, and torch's pytree
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=folder,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, DataLoader([data(torch.float32)], batch_size=None), **options)
    return module, trainer


def test_a_resumed_run_of_lightning_equals_an_uninterrupted_one_bitwise(tmp_path):
    whole, _ = fit(tmp_path, 4)
    _, trainer = fit(tmp_path, 2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fit(tmp_path, 4, ckpt_path=tmp_path / "half.ckpt")
    assert all(torch.equal(one, other) for one, other in zip(values(resumed), values(whole), strict=True))
    assert not torch.equal(values(resumed.objective)[0], values(make()[1])[0])
