"""A refactor leaves the loss curve as it was: stored curves in float64, with a tolerance that any processor holds.

After a change that means to change the mathematics, `PYTHONPATH=tests python tests/golden/test_curves.py` records
them again.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from charladder.objective import ObjectiveConfig
from helpers import PROSE, make_trainer, small

STORED = Path(__file__).with_name("curves.json")
CASES = {
    "ladder": {"model": small(), "optimizer": "muon"},
    "epochs": {"model": small(), "optimizer": "adamw", "order": "epochs"},
    "paper": {"model": small(block="paper"), "optimizer": "momentum", "momentum": 0.9},
    "tied": {
        "model": small(),
        "objective": ObjectiveConfig(intermediate_heads="shared", targets=3),
        "optimizer": "adamw",
    },
    "dropout": {
        "model": small(block="paper", norm_placement="post", dropout=0.3),
        "optimizer": "momentum",
        "momentum": 0.9,
        "micro_batch": 2,
    },
    "last": {"model": small(), "objective": ObjectiveConfig(positions="last"), "optimizer": "adamw"},
    "muon, weight decay": {"model": small(), "optimizer": "muon", "weight_decay": 0.3, "learning_rate": 0.1},
    "cosine, warm-up": {"model": small(), "optimizer": "adamw", "decay": "cosine", "warmup": 0.45},
}


def curve(case: str) -> list[float]:
    """The total, in nats, of ten steps."""
    trainer = make_trainer((PROSE * 5).encode(), dtype=torch.float64, steps=10, **CASES[case])
    with torch.no_grad():
        for place, parameter in enumerate([*trainer.network.parameters(), *trainer.objective.parameters()]):
            if parameter.ndim == 2:  # numpy's draws are the same on every processor, torch's only nearly
                draws = np.random.default_rng(place).normal(0, 0.1, parameter.shape)
                parameter.copy_(torch.from_numpy(draws))
    return [float(trainer.step().report.total) for _ in range(10)]


@pytest.mark.parametrize("case", CASES)
def test_the_curve_is_what_it_was(case):
    assert curve(case) == pytest.approx(json.loads(STORED.read_text())[case], rel=1e-9)


if __name__ == "__main__":
    STORED.write_text(json.dumps({case: curve(case) for case in CASES}, indent=1) + "\n")
