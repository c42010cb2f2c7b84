"""The command for two processes, as docs/nothing-is-lost.md has it, and the settings that it names."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from charladder.recipe import field_types
from charladder.training import TrainingConfig

PAGE = (Path(__file__).parents[2] / "docs" / "nothing-is-lost.md").read_text()


@pytest.mark.slow
def test_the_command_that_starts_two_processes(tmp_path, text_file):
    (line,) = [line for line in PAGE.splitlines() if line.startswith("torchrun") and "runs/two" in line]
    words = shlex.split(line)
    assert words[0] == "torchrun"
    words[0:1] = [sys.executable, "-m", "torch.distributed.run"]
    words[words.index("python", 3)] = str(text_file)
    words[words.index("--steps") + 1] = "4"
    small = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "4", "--json"]
    done = subprocess.run(
        [*words, *small], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == "runs/two"
    assert "2 processes, DDP" in done.stderr


def test_the_numbers_it_gives_are_the_defaults():
    settings = TrainingConfig(batch=1, learning_rate=1.0, steps=1)
    assert f"`training.skips` ({settings.skips})" in PAGE
    assert f"`training.spike` ({settings.spike:g})" in PAGE
    assert f"every {settings.checkpoint_seconds:g} seconds" in PAGE
    for name in ("training.parallel", "training.skips", "training.spike", "training.checkpoint_seconds"):
        assert name in field_types()
