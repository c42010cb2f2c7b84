"""Commands do not import modules that they do not use and that take a second or two to import."""

import subprocess
import sys

import pytest

from charladder.cli.main import main

TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "2", "--valid", "100"]
SLOW_MODULES = {
    "torch._dynamo",
    "torch.distributed.tensor",
    "torch.distributed.checkpoint",
    "sympy",
    "fastapi",
    "transformers",
}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["generate run --length 5", "evaluate run", "inspect t64"])
def test_command_imports_no_unused_slow_module(tmp_path, text_file, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(text_file), *TINY, "--run", "run"]) == 0
    arguments = [sys.executable, "-X", "importtime", "-m", "charladder", *command.split()]
    process = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True)
    imported = {
        line.rsplit("|", 1)[1].strip() for line in process.stderr.splitlines() if line.startswith("import time:")
    }
    assert "torch" in imported
    assert not imported & SLOW_MODULES
