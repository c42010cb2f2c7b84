"""Training in frameworks, in one process or in two that torchrun starts; both must end with the same weights.

`results` starts the two processes. A case is a function of a folder that returns plain numbers. The processes share the
examples of a step; in all cases the auxiliary term is inactive in the second half.
"""

import contextlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from auxiliary.features import CLASSES, RATE, WIDTH, Network, fill_parameters
from auxiliary.hugging_face_models import LLAMA, make_trainer
from charladder import auxiliary as aux

WORLD, BATCH, EXAMPLES, STEPS = 2, 4, 20, 4
HALF = aux.schedules.until(0.5, 0.5)
Case = Callable[[Path], dict[str, Any]]


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def weights(*modules: nn.Module) -> dict[str, Any]:
    return {f"{n} {name}": p.tolist() for n, module in enumerate(modules) for name, p in module.named_parameters()}


def trainer(folder: Path) -> dict[str, Any]:
    """Four steps, clipped, with evaluations: of two micro-batches, and of one at the end of the epoch."""
    mine = make_trainer(
        folder, LLAMA, EXAMPLES, {"weight": HALF}, per_device_train_batch_size=BATCH // world(), max_steps=STEPS,
        gradient_accumulation_steps=2, learning_rate=0.5, max_grad_norm=0.5, eval_strategy="epoch",
        per_device_eval_batch_size=BATCH // world(), ddp_backend="gloo" if world() > 1 else None,
    )  # fmt: skip
    mine.train()
    losses = [[line.get(f"{name}_loss", 0.0) for name in ("main", "early", "eval")] for line in mine.state.log_history]
    return {"weights": weights(mine.model, mine.auxiliary_objective), "losses": losses}


def make() -> tuple[Network, aux.Objective, TensorDataset]:
    """A network, its objective, and data with labels of which some do not count."""
    network = Network().double()
    early = aux.Term(F.cross_entropy, tap="blocks.0", head=nn.Linear(WIDTH, CLASSES), weight=HALF)
    objective = aux.Objective(aux.Term(F.cross_entropy), {"early": early}, model=network).double()
    fill_parameters(network, 0)
    fill_parameters(objective, 1)
    draw = torch.Generator().manual_seed(4)
    x = torch.randn(EXAMPLES, WIDTH, generator=draw, dtype=torch.float64)
    y = torch.randint(CLASSES, (EXAMPLES,), generator=draw)
    y[[1, 6, 7, 9, 14]] = -100
    return network, objective, TensorDataset(x, y)


def accelerate(folder: Path) -> dict[str, Any]:
    """Steps of two micro-batches with exact counts, as in docs/frameworks.md; model and objective are prepared."""
    accelerator = Accelerator(cpu=True)
    network, objective, data = make()
    optimizer = torch.optim.SGD([*network.parameters(), *objective.parameters()], RATE)
    loader = DataLoader(data, batch_size=BATCH // world())
    model, prepared, optimizer, loader = accelerator.prepare(network, objective, optimizer, loader)
    for step in range(STEPS):
        batches = list(loader)[2 * (step % 2) : 2 * (step % 2) + 2]
        counts = objective.counts(targets for _, targets in batches)
        for batch, is_last in zip(batches, (False, True), strict=True):
            with contextlib.ExitStack() as stack:
                for wrapped in () if is_last else (model, prepared):
                    stack.enter_context(accelerator.no_sync(wrapped))
                report = prepared(model, *batch, progress=step / STEPS, counts=counts)
                accelerator.backward(report.total)
        accelerator.clip_grad_norm_([*model.parameters(), *prepared.parameters()], 0.5)
        optimizer.step()
        optimizer.zero_grad()
    return {"weights": weights(network, objective)}


class Module(lightning.LightningModule):
    """Automatic optimisation."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.objective, self.data = make()

    def report(self, batch: Any, **more: Any) -> aux.Report:
        progress = self.trainer.global_step / self.trainer.estimated_stepping_batches
        return self.objective(self.network, *batch, progress=progress, **more)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return self.report(batch).total

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), RATE)


class ManualModule(Module):
    """Manual optimisation, with micro-batches and exact counts."""

    automatic_optimization = False

    def training_step(self, batch: Any, index: int) -> None:
        optimizer = self.optimizers()
        parts = list(zip(*(tensor.split(1) for tensor in batch), strict=True))
        counts = self.objective.counts(targets for _, targets in parts)
        for part in parts:
            self.manual_backward(self.report(part, counts=counts).total)
        self.clip_gradients(optimizer, gradient_clip_val=0.5)
        optimizer.step()
        optimizer.zero_grad()


def fit(module: Module, **options: Any) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about few workers, and torch's pytree
        runner = lightning.Trainer(
            accelerator="cpu", strategy="ddp" if world() > 1 else "auto", devices=world(), max_epochs=1, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False, **options,
        )  # fmt: skip
        # Lightning's own sampler would shuffle.
        sampler = DistributedSampler(module.data, world(), int(os.environ.get("RANK", "0")), shuffle=False)
        runner.fit(module, DataLoader(module.data, batch_size=BATCH // world(), sampler=sampler))
    return {"weights": weights(module.network, module.objective)}


def lightning_automatic(folder: Path) -> dict[str, Any]:
    return fit(Module(), gradient_clip_val=0.5)


def lightning_manual(folder: Path) -> dict[str, Any]:
    return fit(ManualModule())


TRAINING: list[Case] = [trainer, accelerate, lightning_automatic, lightning_manual]


def results(folder: Path) -> list[dict[str, Any]]:
    """The results of each rank."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORLD)]
    done = subprocess.run(
        [*launcher, __file__, str(folder)], env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


if __name__ == "__main__":
    place = Path(sys.argv[1])
    found = {case.__name__: case(place / case.__name__) for case in TRAINING}
    (place / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # without interpreter shutdown: threads of gloo may still wait for the GIL
