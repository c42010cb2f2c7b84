"""The training section of a recipe: budget, batch, optimizer, precision."""

import math
from dataclasses import dataclass
from typing import Literal

from charladder.errors import UserError


@dataclass(frozen=True)
class TrainingConfig:
    """The fields of the training section. Raises UserError that names the field of an invalid value.

    Exactly one of minutes, steps and characters is above 0. A run budgeted in steps or characters is reproducible bit
    for bit on one machine; the number of steps of a run budgeted in minutes depends on the speed of the machine.

    batch: Windows of a step.
    learning_rate: Peak learning rate of Muon, or of all parameters with the other optimizers.
    minutes: Budget in minutes of training.
    steps: Budget in optimizer steps.
    characters: Budget in characters read.
    micro_batch: Windows of one forward pass, which limits memory; 0 for the whole batch. Gradients are accumulated, and
    the result is the same.
    cut_windows: Pieces into which each window is cut early in training; 1 for none. Short windows cost less, and a step
    reads the same text.
    cut_until: Progress in [0, 1] until which windows are cut.
    seed: Seed of weights, windows and dropout.
    optimizer: `muon` (AdamW for what is no matrix of a layer), `adamw`, or `momentum` (SGD, the paper's). Muon: Jordan
    et al. 2024.
    adam_rate: Peak learning rate of the parameters that Muon leaves to AdamW.
    ngram_rate: Peak learning rate of the n-gram embeddings, which Adagrad trains.
    momentum: Momentum of Muon and of SGD.
    beta1: Decay of AdamW's mean of gradients.
    beta2: Decay of AdamW's mean of squared gradients.
    weight_decay: Weight decay of all parameters (decoupled, but L2 with `momentum`).
    warmup: Share of the budget in which the learning rate rises. The first of n warm-up steps has 1/n of the rate.
    decay: Learning rate after the warm-up: `linear` or `cosine` to 0, or `fixed`.
    clip: Largest gradient norm; 0 for no limit.
    device: `auto` (CUDA where available, else CPU), cpu, cuda, cuda:1 or mps.
    precision: Dtype of activations; `auto` is bfloat16 where the hardware multiplies it. Weights and optimizer state
    are always float32.
    compile: torch.compile of the `blocks`, also CUDA `graphs` of whole steps, or `never`; `auto` chooses. `graphs`
    needs the whole batch in one pass (micro_batch 0). `auto` compiles on a GPU, with graphs in one process.
    parallel: Processes of torchrun: `ddp` copies the weights, `fsdp` shards them; `auto` is ddp. FSDP also shards
    gradients and optimizer state.
    skips: Most steps skipped of the last 100 before the run stops. A step is skipped where its loss or gradient is not
    finite, or its loss is a spike.
    spike: A loss this many standard deviations above the last 64 is skipped; 0 for none. It is compared with the
    highest of them, must also be one bit higher, and the deviation is estimated by the median deviation.
    validations: Number of validations in a run.
    validation_characters: Characters of the validation part scored by each validation.
    patience: Validations without improvement after which training ends early; 0 for never.
    checkpoint_seconds: Seconds between checkpoints.
    log_every: Steps between lines of metrics.jsonl.
    diagnose_every: Steps between comparisons of auxiliary gradients with the main one; 0 for never.
    initial_run: Run whose weights training started from (`train --from`); set when the run is created.
    initial_sha256: SHA-256 of the network of initial_run; set when the run is created.
    """

    batch: int
    learning_rate: float
    minutes: float = 0.0
    steps: int = 0
    characters: int = 0
    micro_batch: int = 0
    cut_windows: int = 1
    cut_until: float = 0.5
    seed: int = 0
    optimizer: Literal["muon", "adamw", "momentum"] = "muon"
    adam_rate: float = 0.003
    ngram_rate: float = 0.05
    momentum: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.0
    warmup: float = 0.02
    decay: Literal["linear", "cosine", "fixed"] = "linear"
    clip: float = 1.0
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["auto", "blocks", "graphs", "never"] = "auto"
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    skips: int = 5
    spike: float = 12.0
    validations: int = 4
    validation_characters: int = 8192
    patience: int = 0
    checkpoint_seconds: float = 60.0
    log_every: int = 10
    diagnose_every: int = 50
    initial_run: str = ""
    initial_sha256: str = ""

    def __post_init__(self) -> None:
        for name in ("batch", "cut_windows", "log_every", "validation_characters"):
            if getattr(self, name) < 1:
                raise UserError(f"training.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("learning_rate", "adam_rate", "ngram_rate", "checkpoint_seconds"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise UserError(f"training.{name} is {getattr(self, name)}; it must be a number above 0")
        for name in ("momentum", "beta1", "beta2", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"training.{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        for name in (
            "micro_batch",
            "cut_until",
            "seed",
            "clip",
            "weight_decay",
            "validations",
            "patience",
            "diagnose_every",
            "skips",
            "spike",
        ):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UserError(f"training.{name} is {getattr(self, name)}; it must be at least 0")
        if self.seed >= 1 << 63:
            raise UserError(f"training.seed is {self.seed}; it must be below 2^63")
        budgets = {name: getattr(self, name) for name in ("minutes", "steps", "characters")}
        for name, amount in budgets.items():
            if not (math.isfinite(amount) and amount >= 0):
                raise UserError(f"training.{name} is {amount}; a budget must be above 0")
        if sum(amount > 0 for amount in budgets.values()) != 1:
            raise UserError(
                "a run needs exactly one budget above 0: training.minutes, training.steps or training.characters"
            )
        if self.patience and not self.validations:
            raise UserError(
                f"training.patience is {self.patience} and training.validations is 0, so training would never end "
                "early; set training.validations above 0, or training.patience to 0"
            )
        if self.compile == "graphs" and self.micro_batch not in (0, self.batch):
            raise UserError(
                f"training.compile is graphs, which cannot accumulate gradients; set training.micro_batch "
                f"{self.micro_batch} to 0, or training.compile to blocks"
            )
        if self.micro_batch > self.batch:
            raise UserError(
                f"training.micro_batch {self.micro_batch} is larger than training.batch {self.batch}; make it smaller"
            )
