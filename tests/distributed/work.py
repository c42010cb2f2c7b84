"""The program that each of two ranks runs for the tests: it trains every case, and saves weights, metrics, checkpoints.

For comparison one process without ranks runs it too. `results` starts all processes, once for all tests.
"""

import datetime
import os
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from filelock import FileLock
from safetensors.torch import save_file

from charladder.objective import ObjectiveConfig
from charladder.training import Trainer, distributed, load_newest, train
from charladder.training.distributed import full_tensors, is_rank_zero
from helpers import PROSE, make_trainer, small

WORLD_SIZE, STEPS, TIMEOUT_SECONDS = 2, 50, 900
DATA = (PROSE * 20).encode()
SGD = {"optimizer": "momentum", "learning_rate": 0.1, "momentum": 0.9}
ADAMW = {"optimizer": "adamw", "learning_rate": 0.003}

# By name: parallel mode, fields of the training section, other arguments.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ddp sgd": ("ddp", SGD, {}),
    "ddp adamw": ("ddp", ADAMW, {}),
    "ddp muon": ("ddp", {}, {}),
    "ddp micro-batches": ("ddp", SGD | {"micro_batch": 1, "cut_windows": 2}, {"dropout": 0.1}),
    "ddp diagnosed": ("ddp", SGD | {"diagnose_every": 5}, {}),
    "ddp layerskip": (
        "ddp",
        SGD,
        {"objective": {"intermediate_schedule": "layerskip", "intermediate_reduction": "mean"}},
    ),
    "fsdp sgd": ("fsdp", SGD, {}),
    "fsdp adamw": ("fsdp", ADAMW, {}),
    "fsdp micro-batches": ("fsdp", SGD | {"micro_batch": 1, "cut_windows": 2}, {"dropout": 0.1}),
    "fsdp shared": ("fsdp", ADAMW, {"objective": {"intermediate_heads": "shared"}}),
    "ddp chained": ("ddp", SGD | {"micro_batch": 1}, {"objective": {"targets": 3, "target_heads": "chained"}}),
    "fsdp chained": ("fsdp", ADAMW, {"objective": {"targets": 3, "target_heads": "chained"}}),
    "ddp bfloat16": ("ddp", ADAMW | {"precision": "bfloat16"}, {"dtype": torch.float32}),
    "ddp nan": ("ddp", SGD | {"diagnose_every": 5}, {}),
    "fsdp nan": ("fsdp", SGD, {}),
    "fsdp bfloat16": ("fsdp", ADAMW | {"precision": "bfloat16"}, {"dtype": torch.float32}),
}


def trainer_of(name: str, seed: int = 0) -> Trainer:
    parallel, training, rest = CASES[name]
    rest = dict(rest)
    dtype, objective = rest.pop("dtype", torch.float64), ObjectiveConfig(**rest.pop("objective", {}))
    model = small(**rest)
    parallel = parallel if dist.is_initialized() else "auto"
    fields = {"steps": STEPS, "log_every": 1, "diagnose_every": 0, "parallel": parallel, "seed": seed} | training
    trainer = make_trainer(DATA, model, objective, dtype, **fields)
    if name.endswith("nan"):
        corrupt_step_6(trainer)
    return trainer


def corrupt_step_6(trainer: Trainer) -> None:
    """Makes the loss of step 6 NaN, on the last rank only. The step is also diagnosed in some cases."""

    def corrupt(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        is_bad = trainer.counters.step == 5 and module.training and distributed.rank() == distributed.world_size() - 1
        return output * torch.nan if is_bad else output

    trainer.network.embedding.register_forward_hook(corrupt)


def score(trainer: Trainer) -> float:
    """Nats per character of a short text, computed by all ranks through the trainer as in a validation."""
    trainer.parallel_module.eval()
    tokens = torch.frombuffer(bytearray(DATA[:17]), dtype=torch.uint8).long()[None]
    with torch.no_grad():
        logits = trainer.predict(tokens[:, :-1], 16)
    return float(torch.nn.functional.cross_entropy(logits.double()[0], tokens[0, 1:]))


def work(folder: Path, names: list[str]) -> None:
    """Trains each case: the first half, then the second half in a new trainer that restores the checkpoint."""
    for name in names:
        run = folder / name
        run.mkdir(exist_ok=True)
        if dist.is_initialized():
            dist.barrier()
        trainer = trainer_of(name)
        for _ in train(trainer, run, partial(score, trainer), lambda t=trainer: t.counters.step >= STEPS // 2):
            pass
        save_weights_and_logits(trainer, run / "half.safetensors")
        trainer = trainer_of(name, seed=0)
        checkpoint = load_newest(run / "checkpoints")
        assert checkpoint is not None
        trainer.restore(checkpoint)
        for _ in train(trainer, run, partial(score, trainer)):
            pass
        save_weights_and_logits(trainer, run / "end.safetensors")


def restore(folder: Path) -> None:
    """Restores the checkpoints that one process wrote, on two ranks."""
    for run in sorted(path for path in folder.iterdir() if path.is_dir()):
        trainer = trainer_of(run.name)
        checkpoint = load_newest(run / "checkpoints")
        assert checkpoint is not None
        trainer.restore(checkpoint)
        save_weights_and_logits(trainer, run / "restored.safetensors")


def save_weights_and_logits(trainer: Trainer, path: Path) -> None:
    """Saves all weights, and the logits of a window as in an evaluation."""
    trainer.parallel_module.eval()
    with torch.no_grad():
        logits = trainer.predict(torch.frombuffer(bytearray(DATA[:16]), dtype=torch.uint8).long()[None], 16)
    weights = full_tensors(trainer.network.state_dict() | trainer.objective.state_dict())
    if is_rank_zero():
        save_file({**{name: w.contiguous() for name, w in weights.items()}, "logits": logits.contiguous()}, path)


def join(rank: int, folder: Path) -> None:
    store, timeout = f"file://{folder / 'store'}", datetime.timedelta(seconds=TIMEOUT_SECONDS)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD_SIZE, timeout=timeout)


def results(folder: Path) -> tuple[Path, Path]:
    """The folders with the results of two ranks and of one process. The first call computes them. Raises RuntimeError
    with the logs if a process failed."""
    folders = folder / "two", folder / "one"
    with FileLock(folder / "lock"):
        if not (folder / "done").exists():
            for each in folders:
                each.mkdir(exist_ok=True)
            errors = run_processes([["two", str(rank), str(folders[0])] for rank in range(WORLD_SIZE)])
            errors = errors or run_processes([["one", "0", str(folders[1])]])
            (folder / "done").write_text(errors)
    errors = (folder / "done").read_text()
    if errors:
        raise RuntimeError(errors)
    return folders


def run_processes(commands: list[list[str]]) -> str:
    """Runs this file once for each list of arguments, at the same time. Returns the logs if a process failed, else an
    empty text."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    paths = [str(root / "tests"), str(root / "src"), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    processes = []
    for command in commands:
        with (Path(command[2]) / f"{command[1]}.log").open("w") as log:
            line = [sys.executable, __file__, *command]
            processes.append(subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT, env=environment))
    end = time.monotonic() + TIMEOUT_SECONDS
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        if any(process.poll() for process in processes):
            break
        time.sleep(0.05)
    codes = [process.poll() for process in processes]
    for process in processes:
        process.kill()
        process.wait()
    if not any(codes) and None not in codes:
        return ""
    logs = [(Path(command[2]) / f"{command[1]}.log").read_text() for command in commands]
    return f"exit codes {codes} (None: still running, after at most {TIMEOUT_SECONDS} s)\n" + "\n".join(logs)


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message=".*lazy_load.*")
    torch.set_num_threads(1)
    role, rank, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    if role != "one":
        join(rank, folder)
    if role == "restore":
        restore(folder)
    else:
        work(folder, list(CASES))
    if dist.is_initialized():
        dist.destroy_process_group()
    # As in charladder's command line: exit without finalization, because threads of gloo may still need the GIL.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
