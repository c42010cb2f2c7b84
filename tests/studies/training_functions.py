"""Training functions that another process can import; nothing is trained."""

import os
import random
import sys
from typing import Any


def train(settings: dict[str, Any], seed: int) -> dict[str, float]:
    """Loss and accuracy that depend on the settings and on the seed; `fail_at` is a seed that fails."""
    if settings.get("fail_at") == seed:
        raise RuntimeError("out of luck")
    if settings.get("sys_exit_at") == seed:
        sys.exit()
    if settings.get("exit_at") == seed:
        os._exit(9)
    loss = 1 + seed / 10 - settings.get("gain", 0.0) + random.Random(f"{seed} {settings}").gauss(0, 0.01)
    return {"loss": loss, "accuracy": 1 - loss / 10}


def nothing(settings: dict[str, Any], seed: int) -> None:
    """A training function that forgets to return its metrics."""
