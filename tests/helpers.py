"""Small configurations, trainers and comparisons that several tests use."""

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

# The command `charladder` with slow steps, so that a test can signal the process before the last step.
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
    """A small modern network; `block="paper"` also selects the paper's position tables."""
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
    """A trainer on the bytes `data`, without validation text; by default in float32 on a CPU."""
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
    """Two safetensors files have bitwise the same tensors. Metadata may differ, because each run has its own id."""
    tensors, others = load_file(one), load_file(other)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert tensor.shape == others[name].shape and tensor.dtype == others[name].dtype, name
        assert tensor.reshape(-1).view(torch.uint8).equal(others[name].reshape(-1).view(torch.uint8)), name


def edit_config(run: Path, old: str, new: str) -> None:
    """Edits config.toml of a run and removes its line `sha256`, so that the edit is accepted."""
    config = run / "config.toml"
    content = config.read_text()
    assert content.count(old) == 1
    edited, removed = re.subn(r'(\[identity\]\nrun = .*\n)sha256 = "\w{64}"\n', r"\1", content.replace(old, new))
    assert removed == 1
    config.write_text(edited)


def compile_with_flags(monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], *libraries: build.Sources) -> None:
    """Compiles these C libraries with additional flags, and no others, until the end of the test. A flag -DNAME=VALUE
    must name a macro of the sources: an unknown one would change nothing."""
    sources = "".join(file.read_text() for file in build.CSRC.rglob("*.c"))
    assert all(f"#ifndef {flag[2:].split('=')[0]}\n" in sources for flag in flags if flag.startswith("-D"))
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, *flags))
    monkeypatch.setattr(build, "LIBRARIES", {sources: build.LIBRARIES[sources] for sources in libraries})
    monkeypatch.setattr(build, "_decision", None)
