"""Small settings and trainers that the tests share."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from charladder.kernels import build
from charladder.model import ModelConfig, Transformer
from charladder.objective import LanguageModelObjective, ObjectiveConfig
from charladder.text import Windows
from charladder.training import Trainer, TrainingConfig

# `charladder` whose steps take a moment: whoever waits for a few of them is there before the last.
COMMAND_WITH_SLOW_STEPS = [
    sys.executable,
    "-c",
    "import time; from charladder.training import Trainer; from charladder.cli.main import command\n"
    "step = Trainer.step; Trainer.step = lambda trainer: (time.sleep(0.01), step(trainer))[1]; command()",
]
PROSE = (
    "The ladder leans on the wall, and every rung of it is asked what it sees. The lowest says: letters. "
    "The next says: words, or what looks like them. Higher up they speak of lines and of what they mean. "
)


def small(**changes: Any) -> ModelConfig:
    """A modern network that trains in a blink; `block="paper"` gives the paper's with its position tables."""
    fields = {"layers": 3, "width": 32, "attention_heads": 2, "feed_forward": 64, "context": 16}
    if changes.get("block") == "paper":
        fields |= {"positions": "tables", "initialisation": "normal"}
    return ModelConfig(**(fields | changes))


def make_trainer(
    data: bytes,
    model: ModelConfig | None = None,
    objective: ObjectiveConfig | None = None,
    dtype: torch.dtype = torch.float32,
    order: str = "random",
    **training: Any,
) -> Trainer:
    """A trainer over the bytes `data`, all of them for training; in float32 on a CPU, on every machine, unless told."""
    model, objective = model or small(), objective or ObjectiveConfig()
    settings = TrainingConfig(
        **({"batch": 4, "learning_rate": 0.01, "steps": 20, "precision": "float32", "device": "cpu"} | training)
    )
    windows = Windows(
        np.frombuffer(data, np.uint8), (0, len(data)), model.context, objective.targets, settings.seed, order
    )
    network = Transformer(model, 256, settings.seed).to(dtype)
    return Trainer(network, LanguageModelObjective(objective, model, 256, settings.seed).to(dtype), windows, settings)


def predictor(network: Transformer) -> Callable[[torch.Tensor, int], torch.Tensor]:
    return lambda tokens, keep: network(tokens, logits_to_keep=keep).logits_BTV


def assert_same_tensors(one: Path, other: Path) -> None:
    """Two safetensors files have the same tensors, to the last bit. Their metadata differ: each run has its own id."""
    tensors, others = load_file(one), load_file(other)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert tensor.shape == others[name].shape and tensor.dtype == others[name].dtype, name
        assert tensor.reshape(-1).view(torch.uint8).equal(others[name].reshape(-1).view(torch.uint8)), name


def edit_config(run: Path, old: str, new: str) -> None:
    """Edits config.toml of a run on purpose: without the line `sha256` the edit is accepted."""
    config = run / "config.toml"
    content = config.read_text()
    assert content.count(old) == 1
    edited, accepted = re.subn(r'(\[identity\]\nrun = .*\n)sha256 = "\w{64}"\n', r"\1", content.replace(old, new))
    assert accepted == 1
    config.write_text(edited)


def compile_with_flags(monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], *libraries: build.Sources) -> None:
    """Until the test ends, these libraries are the only ones, and they are compiled with further flags."""
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, *flags))
    monkeypatch.setattr(build, "LIBRARIES", {sources: build.LIBRARIES[sources] for sources in libraries})
    monkeypatch.setattr(build, "_decided", None)
