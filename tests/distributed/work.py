"""What each of two ranks does for the tests: trains every case, writes weights and metrics, and checkpoints on the way.

Also run by one process alone (no ranks), for comparison. Cases are settings; `results` starts what is needed, once.
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

WORLD, STEPS, TIME = 2, 50, 900
DATA = (PROSE * 20).encode()
SGD = {"optimizer": "momentum", "learning_rate": 0.1, "momentum": 0.9}
ADAMW = {"optimizer": "adamw", "learning_rate": 0.003}

# By name: how the ranks share the work, fields of training, and of everything else.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ddp sgd": ("ddp", SGD, {}),
    "ddp adamw": ("ddp", ADAMW, {}),
    "ddp muon": ("ddp", {}, {}),
    "ddp parts": ("ddp", SGD | {"micro_batch": 1, "cut_windows": 2}, {"dropout": 0.1}),
    "ddp diagnosed": ("ddp", SGD | {"diagnose_every": 5}, {}),
    "ddp turns": ("ddp", SGD, {"objective": {"intermediate_schedule": "layerskip", "intermediate_reduction": "mean"}}),
    "fsdp sgd": ("fsdp", SGD, {}),
    "fsdp adamw": ("fsdp", ADAMW, {}),
    "fsdp parts": ("fsdp", SGD | {"micro_batch": 1, "cut_windows": 2}, {"dropout": 0.1}),
    "fsdp shared": ("fsdp", ADAMW, {"objective": {"intermediate_heads": "shared"}}),
    "ddp bfloat16": ("ddp", ADAMW | {"precision": "bfloat16"}, {"dtype": torch.float32}),
    "ddp bad": ("ddp", SGD | {"diagnose_every": 5}, {}),
    "fsdp bad": ("fsdp", SGD, {}),
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
    if name.endswith("bad"):
        spoil(trainer)
    return trainer


def spoil(trainer: Trainer) -> None:
    """Makes a loss of step 6 (which is diagnosed) NaN, on one rank only where there are two."""

    def spoiled(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        bad = trainer.clock.step == 5 and module.training and distributed.rank() == distributed.world_size() - 1
        return output * torch.nan if bad else output

    trainer.network.embedding.register_forward_hook(spoiled)


def score(trainer: Trainer) -> float:
    """Nats per character of a little text, as validation takes them: through the trainer, by all ranks."""
    trainer.parallel_module.eval()
    tokens = torch.frombuffer(bytearray(DATA[:17]), dtype=torch.uint8).long()[None]
    with torch.no_grad():
        logits = trainer.predict(tokens[:, :-1], 16)
    return float(torch.nn.functional.cross_entropy(logits.double()[0], tokens[0, 1:]))


def work(folder: Path, names: list[str]) -> None:
    """Trains each case, half of it, then all in a second trainer that goes on from the checkpoint of any number of
    ranks that lies there."""
    for name in names:
        place = folder / name
        place.mkdir(exist_ok=True)
        if dist.is_initialized():
            dist.barrier()
        trainer = trainer_of(name)
        for _ in train(trainer, place, partial(score, trainer), lambda t=trainer: t.clock.step >= STEPS // 2):
            pass
        note(trainer, place / "half.safetensors")
        trainer = trainer_of(name, seed=0)
        checkpoint = load_newest(place / "checkpoints")
        assert checkpoint is not None
        trainer.restore(checkpoint)
        for _ in train(trainer, place, partial(score, trainer)):
            pass
        note(trainer, place / "end.safetensors")


def reread(folder: Path) -> None:
    """Two ranks with the checkpoints that one process wrote."""
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        trainer = trainer_of(place.name)
        checkpoint = load_newest(place / "checkpoints")
        assert checkpoint is not None
        trainer.restore(checkpoint)
        note(trainer, place / "reread.safetensors")


def note(trainer: Trainer, path: Path) -> None:
    """All weights, and the logits of a window as evaluation has them."""
    trainer.parallel_module.eval()
    with torch.no_grad():
        logits = trainer.predict(torch.frombuffer(bytearray(DATA[:16]), dtype=torch.uint8).long()[None], 16)
    weights = full_tensors(trainer.network.state_dict() | trainer.objective.state_dict())
    if is_rank_zero():
        save_file({**{name: w.contiguous() for name, w in weights.items()}, "logits": logits.contiguous()}, path)


def join(rank: int, folder: Path) -> None:
    store, patience = f"file://{folder / 'store'}", datetime.timedelta(seconds=TIME)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD, timeout=patience)


def results(folder: Path) -> tuple[Path, Path]:
    """The folders of two ranks and of one, made by whoever asks first. Raises RuntimeError with what went wrong."""
    places = folder / "two", folder / "one"
    with FileLock(folder / "lock"):
        if not (folder / "done").exists():
            for place in places:
                place.mkdir(exist_ok=True)
            failed = start([[place.name, str(rank), str(place)] for place in places[:1] for rank in range(WORLD)])
            failed = failed or start([["one", "0", str(places[1])]])
            (folder / "done").write_text(failed)
    failed = (folder / "done").read_text()
    if failed:
        raise RuntimeError(failed)
    return places


def start(commands: list[list[str]]) -> str:
    """Runs this file so often at the same time; says what went wrong, or nothing."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    paths = [str(root / "tests"), str(root / "src"), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    processes = []
    for command in commands:
        with (Path(command[2]) / f"{command[1]}.log").open("w") as log:
            line = [sys.executable, __file__, *command]
            processes.append(subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT, env=environment))
    end = time.monotonic() + TIME
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
    return f"they ended with {codes} (None: waiting still, after at most {TIME} s)\n" + "\n".join(logs)


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message=".*lazy_load.*")
    torch.set_num_threads(1)
    who, rank, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    if who != "one":
        join(rank, folder)
    if who == "reread":
        reread(folder)
    else:
        work(folder, list(CASES))
    if dist.is_initialized():
        dist.destroy_process_group()
    # As charladder's own command ends: threads of gloo may still want Python's lock.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
