"""Where a figure comes from: the commit of the code, the machine and the versions, as one flat record."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from charladder.environment import describe_machine

_ROOT = Path(__file__).parents[1]
_CODE = ("src", "benchmarks", ":(exclude)benchmarks/results", ":(exclude)benchmarks/tuned")


def describe_source() -> dict[str, str]:
    """commit, processor, cores, system, python, and the version of each library."""
    machine = describe_machine()
    return {
        "commit": code_commit(),
        "processor": str(machine["processor"]),
        "cores": str(os.cpu_count()),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("charladder", "torch", "numpy")},
    }


def code_commit() -> str:
    """The last commit that changed the code, so that a commit of results or of a page does not count as other code.

    With `+changes` if tracked files of the code differ from it; empty outside a git checkout.
    """
    commit = _git("log", "-1", "--format=%H", "--", *_CODE)
    return commit + ("+changes" if commit and _git("status", "--porcelain", "-uno", "--", *_CODE) else "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
