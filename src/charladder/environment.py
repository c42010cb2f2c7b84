"""environment.json: the versions, machine, text, git revision and recipe with which a run was created."""

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from charladder.input_files import read_bytes
from charladder.objective.cross_entropy_kernels import describe_operations
from charladder.recipe import Recipe, recipe_tables
from charladder.text import Corpus
from charladder.training import distributed


def describe_environment(recipe: Recipe, identity: str | None, data: dict[str, Any]) -> dict[str, Any]:
    """The content of environment.json. The recipe in it is without the letters of the alphabet. data: the text of the
    run (see describe_corpus), or where it was imported from. git: the revision of the source; git_clean: whether the
    files of the package are those of the revision."""
    config = recipe_tables(recipe)
    del config["text"]["letters"]
    return {
        "run": identity,
        "versions": {name: metadata.version(name) for name in ("charladder", "torch", "numpy", "safetensors")},
        "python": platform.python_version(),
        "machine": describe_machine(),
        "data": data,
        "git": _ask_git("rev-parse", "HEAD") or None,
        "git_clean": None if (changes := _ask_git("status", "--porcelain", "--", ".")) is None else not changes,
        "job": distributed.job_name(),
        "config": config,
    }


def describe_corpus(corpus: Corpus) -> dict[str, Any]:
    """The entry `data` of environment.json, for a run on a text."""
    return {
        "name": corpus.name,
        "bytes": corpus.bytes,
        "sha256": corpus.sha256,
        "files": len(corpus.ends_F),
        "unknown": corpus.unknown,
    }


def read_environment_text(path: Path, *keys: str) -> str | None:
    """A text in the environment.json of a run; None if there is none."""
    entry = read_environment_entry(path, *keys)
    return entry if isinstance(entry, str) else None


def read_environment_entry(path: Path, *keys: str) -> Any:
    """An entry in the environment.json of a run; None if there is none."""
    try:
        entry = json.loads(read_bytes(path / "environment.json"))
        for key in keys:
            entry = entry[key]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return entry


def describe_machine() -> dict[str, Any]:
    """Processor, cores and GPU of this machine."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "system": platform.platform(),
        "processor": model,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "steps": describe_operations(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _ask_git(*arguments: str) -> str | None:
    """What git says about the source of the package; None if it is not in a git checkout."""
    try:
        result = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
