"""How a network is trained: budget, batch, optimizer, precision."""

import math
from dataclasses import dataclass
from typing import Literal

from charladder.errors import UserError


@dataclass(frozen=True)
class TrainingConfig:
    """Checked when made (UserError says which field is wrong).

    minutes, steps, characters: the budget; exactly one is above 0. A run budgeted in steps or characters repeats bit
    for bit on one machine; one budgeted in minutes does as much as the time allows.
    batch: windows a step; micro_batch: how many of them at once (0: all), which changes memory and nothing else.
    cut_windows: until the progress `cut_until`, windows are cut into so many pieces (1: they stay whole), which cost
    less and teach the first things as well; the text that a step reads stays the same.
    optimizer: `muon` for the matrices of the layers (Jordan et al. 2024) with AdamW for the rest, `adamw`, or
    `momentum` SGD (the paper's). learning_rate: of Muon, or of all parameters; adam_rate: of what Muon leaves;
    ngram_rate: of the embeddings of n-grams, which Adagrad trains.
    warmup: share of the budget in which the rate rises, counting the step itself: the first of n warm-up steps has 1/n
    of the rate. decay: `linear` or `cosine` to 0, or `fixed`.
    clip: largest gradient norm (0: no limit).
    precision: of activations and products; weights and optimizer state are always float32. `auto` takes bfloat16
    where the processor or GPU has it.
    compile: `blocks` compiles the network's blocks, all as one, with torch.compile. `graphs` also replays the passes of
    a step as one CUDA graph, which wants the whole batch at once (micro_batch 0). `auto` does both on a GPU, the second
    where it can be: in one process, with the whole batch at once.
    parallel: how several processes (torchrun) share the work: `ddp` (what `auto` means) gives each a copy and a part of
    the batch; `fsdp` also cuts weights, gradients and optimizer state into pieces.
    skips: how many of the last hundred steps may be left out, because their loss or gradient was not finite or their
    loss leapt, before the run stops. spike: how far above the highest of the last 64 losses a leap is, in their
    standard deviations (by the median deviation), and at least one bit (0: no leap is).
    diagnose_every: after how many steps the auxiliary gradients are compared with the main one (0: never).
    validations: how often in a run a stretch of `validation_characters` of the valid part is scored.
    patience: how many validations in a row may be no better than the best one before training ends early (0: any).
    initial_run, initial_sha256: the run whose network and heads this one began with (`train --from`), and the SHA-256
    of that network's file; filled in when a run begins, and empty where the weights were drawn at random.
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
            raise UserError("a run needs exactly one budget above 0: --minutes, --steps or --chars")
        if self.patience and not self.validations:
            raise UserError(
                f"training.patience is {self.patience} and training.validations is 0, so it could never end training; "
                "set training.validations above 0, or leave --patience out"
            )
        if self.compile == "graphs" and self.micro_batch not in (0, self.batch):
            raise UserError(
                f"training.compile is graphs, which keep gradients of one pass; set training.micro_batch "
                f"{self.micro_batch} to 0, or training.compile to blocks"
            )
        if self.micro_batch > self.batch:
            raise UserError(
                f"training.micro_batch {self.micro_batch} is larger than training.batch {self.batch}; make it smaller"
            )
