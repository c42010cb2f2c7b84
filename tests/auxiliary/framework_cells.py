"""The cells of the second table in docs/support.md: a feature of the library in the loop of a training framework."""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from auxiliary.cells import LibraryTrainer, gradients_of, sgd, weights_of
from auxiliary.features import BATCH, FIRST_MICRO_BATCH, RATE, STEPS, Captured, Feature, Network, data, fill_parameters
from charladder import auxiliary as aux
from charladder.auxiliary.integrations.transformers import AuxiliaryTrainerMixin

CAPTURE, WHOLE, TRAINER, ACCELERATE, LIGHTNING = (
    "`capture`", "compiled step, `fullgraph`", "Trainer", "accelerate", "Lightning"
)  # fmt: skip
Result = dict[str, Tensor]
ONE_STEP, SEVERAL_STEPS, MICRO_BATCHES = "gradients", "inactive_steps", "micro_batches"  # kinds of Feature.training


def run(feature: Feature, framework: str) -> Result | None:
    """The result of a framework, or None if its loop cannot do this kind of training. Raises AuxiliaryError."""
    network = Network(**feature.options).double()
    fill_parameters(network, 0)
    kind = Captured if framework == CAPTURE else aux.Objective
    objective = kind(aux.Term(F.cross_entropy), feature.terms())
    if feature.build:
        objective.build(network, data()[0])
    objective.double()
    fill_parameters(objective, 1)
    return FRAMEWORKS[framework](feature, network, objective)


def train_captured(feature: Feature, network: Network, objective: aux.Objective) -> Result:
    return getattr(LibraryTrainer(network, network, objective, contextlib.nullcontext()), feature.training)(*data())


def train_compiled(feature: Feature, network: Network, objective: aux.Objective) -> Result | None:
    """The call of the objective is one graph, with the model inside. What reads a report twice cannot be in a graph."""
    if feature.training not in (ONE_STEP, SEVERAL_STEPS, MICRO_BATCHES):
        return None
    objective.attach(network)
    torch.compiler.reset()  # compiled code of other cells

    @torch.compile(backend="aot_eager", fullgraph=True)
    def total(x: Tensor, y: Tensor, more: dict[str, Any]) -> Tensor:
        return objective(network, x, y, **more).total

    trainer: Any = LibraryTrainer(network, network, objective, contextlib.nullcontext())
    trainer.report = lambda x, y, **more: SimpleNamespace(total=total(x, y, more))
    return getattr(trainer, feature.training)(*data())


def train_with_accelerate(feature: Feature, network: Network, objective: aux.Objective) -> Result:
    """The loop of the user, with a prepared model and objective."""
    AcceleratorState._reset_state()  # accelerate keeps the precision of other tests in the process
    accelerator = Accelerator(cpu=True)
    model, prepared = accelerator.prepare(network, objective)
    trainer = LibraryTrainer(network, model, prepared, contextlib.nullcontext(), accelerator.backward)
    return getattr(trainer, feature.training)(*data())


# Hugging Face Trainer.


class MyTrainer(AuxiliaryTrainerMixin, Trainer):
    pass


class Gradients(TrainerCallback):
    """Keeps the gradients of the last step."""

    def __init__(self, modules: dict[str, Any]) -> None:
        self.modules, self.found = modules, {}

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.found = {name: gradient.clone() for name, gradient in gradients_of(self.modules).items()}


def train_with_trainer(feature: Feature, network: Network, objective: aux.Objective) -> Result | None:
    """One step of one batch, one step of two micro-batches of different size, or several steps."""
    if feature.training not in (ONE_STEP, SEVERAL_STEPS, MICRO_BATCHES):
        return None
    in_pieces = feature.training == MICRO_BATCHES
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=STEPS if feature.training == SEVERAL_STEPS else 1, learning_rate=RATE, optim="sgd",
            lr_scheduler_type="constant", max_grad_norm=0, label_names=["labels"], use_cpu=True,
            per_device_train_batch_size=BATCH - FIRST_MICRO_BATCH if in_pieces else BATCH,
            gradient_accumulation_steps=2 if in_pieces else 1, save_strategy="no", report_to="none",
            disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        rows = [{"x": x, "labels": y} for x, y in zip(*data(), strict=True)]
        trainer = MyTrainer(model=network, args=arguments, train_dataset=rows, auxiliary_objective=objective)
        trainer.remove_callback(PrinterCallback)
        modules = {"network": network, "heads": objective}
        trainer.add_callback(gradients := Gradients(modules))
        trainer.train()
    return weights_of(modules) if feature.training == SEVERAL_STEPS else gradients.found


# Lightning.


class Automatic(lightning.LightningModule):
    """Automatic optimisation: a step for each batch."""

    def __init__(self, network: Network, objective: aux.Objective) -> None:
        super().__init__()
        self.network, self.objective = network, objective
        self.modules_by_name, self.found = {"network": network, "heads": objective}, {}

    def training_step(self, batch: Any, index: int) -> Tensor:
        return self.objective(self.network, *batch, progress=self.trainer.global_step / STEPS).total

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.found = {name: gradient.clone() for name, gradient in gradients_of(self.modules_by_name).items()}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return sgd(self.modules_by_name)


class Manual(Automatic):
    """Manual optimisation: the loop of the user."""

    automatic_optimization = False

    def __init__(self, network: Network, objective: aux.Objective, training: str) -> None:
        super().__init__(network, objective)
        self.training_kind = training

    def training_step(self, batch: Any, index: int) -> None:
        trainer = LibraryTrainer(
            self.network, self.network, self.objective, contextlib.nullcontext(), self.manual_backward
        )
        self.found = getattr(trainer, self.training_kind)(*batch)


def train_with_lightning(feature: Feature, network: Network, objective: aux.Objective) -> Result:
    """Automatic optimisation where a batch is a step, and manual optimisation for the others."""
    automatic = feature.training in (ONE_STEP, SEVERAL_STEPS)
    module = Automatic(network, objective) if automatic else Manual(network, objective, feature.training)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about short epochs, few workers, and torch's pytree
        trainer = lightning.Trainer(
            max_epochs=STEPS if feature.training == SEVERAL_STEPS else 1, accelerator="cpu", logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, DataLoader([data()], batch_size=None))
    return weights_of(module.modules_by_name) if feature.training == SEVERAL_STEPS else module.found


FRAMEWORKS: dict[str, Callable[[Feature, Network, aux.Objective], Result | None]] = {
    CAPTURE: train_captured,
    WHOLE: train_compiled,
    TRAINER: train_with_trainer,
    ACCELERATE: train_with_accelerate,
    LIGHTNING: train_with_lightning,
}
