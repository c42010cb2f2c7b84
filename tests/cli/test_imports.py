"""A command waits for nothing that it does not use: torch has parts that take a second or two to import."""

import subprocess
import sys

import pytest

from charladder.cli.main import main

TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "2", "--valid", "100"]
HEAVY = {
    "torch._dynamo",
    "torch.distributed.tensor",
    "torch.distributed.checkpoint",
    "sympy",
    "fastapi",
    "transformers",
}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["generate run --length 5", "evaluate run", "inspect t64"])
def test_what_a_command_imports(tmp_path, text_file, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(text_file), *TINY, "--run", "run"]) == 0
    words = [sys.executable, "-X", "importtime", "-m", "charladder", *command.split()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "torch" in imported
    assert not imported & HEAVY
