"""Training in frameworks, in one process or in two that torchrun starts; both must end with the same weights.

`results` starts the two processes. A case is a function of a folder that returns plain numbers; each process of a step
has an equal part of the step's batch.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from auxiliary.hugging_face_models import LLAMA, make_trainer
from charladder import auxiliary as aux

WORLD, BATCH, EXAMPLES = 2, 4, 16
Case = Callable[[Path], dict[str, Any]]


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def trainer(folder: Path) -> dict[str, Any]:
    """Four steps of two micro-batches, clipped; the auxiliary term is silent in the second half."""
    term = {"weight": aux.schedules.until(0.5, 0.5)}
    mine = make_trainer(
        folder, LLAMA, EXAMPLES, term, per_device_train_batch_size=BATCH // world(), max_steps=4,
        gradient_accumulation_steps=2, learning_rate=0.5, max_grad_norm=0.5, eval_strategy="epoch",
        per_device_eval_batch_size=BATCH // world(), ddp_backend="gloo" if world() > 1 else None,
    )  # fmt: skip
    mine.train()
    losses = [[line.get(f"{name}_loss", 0.0) for name in ("main", "early", "eval")] for line in mine.state.log_history]
    return {"weights": weights(mine.model, mine.auxiliary_objective), "losses": losses}


def weights(*modules: torch.nn.Module) -> dict[str, Any]:
    return {f"{n} {name}": p.tolist() for n, module in enumerate(modules) for name, p in module.named_parameters()}


TRAINING: list[Case] = [trainer]


def results(folder: Path) -> list[dict[str, Any]]:
    """The results of each rank."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORLD)]
    done = subprocess.run(
        [*launcher, __file__, str(folder)], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


if __name__ == "__main__":
    place = Path(sys.argv[1])
    found = {case.__name__: case(place / case.__name__) for case in TRAINING}
    (place / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # without interpreter shutdown: threads of gloo may still wait for the GIL
