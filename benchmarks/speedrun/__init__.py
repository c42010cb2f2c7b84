"""The CPU speedrun: docs/speedrun.md has its task, its rules and its records."""

from benchmarks.speedrun.command import main

__all__ = ["main"]
