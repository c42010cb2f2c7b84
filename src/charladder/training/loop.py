"""The loop of a run: steps until the budget is spent, validation, metrics and checkpoints on the way.

It is an iterator of events, so that whoever displays a run needs nothing from whoever trains it.
"""

import math
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from charladder.training.checkpoint import save_checkpoint
from charladder.training.distributed import agree, gathered, leader, wait
from charladder.training.files import save_tensors
from charladder.training.metrics import Metrics, Silent, is_validation, read_metrics
from charladder.training.trainer import StepFacts, Trainer

BITS = 1 / math.log(2)
BRIEF = "step", "progress", "characters", "seconds", "learning_rate"
SLOW, OFTEN, USUAL = 10.0, 20, 64  # a step is slow at so many times the median of the latest, from so many on,
SHORT = 0.1  # and not if it takes fewer seconds than that: then it was somebody else


@dataclass(frozen=True)
class Stepped:
    """After a step. `line` is what metrics.jsonl has of it."""

    line: dict[str, Any]
    facts: StepFacts


@dataclass(frozen=True)
class Skipped:
    """After a step that changed nothing, for its loss or gradient was bad."""

    step: int
    reason: str


@dataclass(frozen=True)
class Slow:
    """After a step that took much longer than the median of the latest ones, in seconds."""

    step: int
    seconds: float
    usual: float


@dataclass(frozen=True)
class Validated:
    """After scoring a stretch of the valid part, in bits per character."""

    bits_per_character: float
    best: bool


@dataclass(frozen=True)
class Saved:
    """After a checkpoint. `interrupted` when it was made because somebody asked to stop."""

    path: Path
    interrupted: bool


@dataclass(frozen=True)
class Unrecorded:
    """Steps are taken as they are from here on, for to record them (training.compile) failed."""

    reason: str


Event = Stepped | Skipped | Slow | Validated | Saved | Unrecorded


def train(
    trainer: Trainer,
    folder: Path,
    validate: Callable[[], float] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Trains until the budget is spent or `stop()`; writes checkpoints, metrics and the newest weights to `folder`.

    `validate` returns bits per character of a stretch of held-out text. Time is counted from here on, all of it,
    on top of what the run had spent before. Raises NotFinite, with the last checkpoint left as it is.
    Under several ranks all of them go through the same events; rank 0 writes.
    """
    settings, clock = trainer.settings, trainer.clock
    sweep(folder)
    metrics = Metrics(folder / "metrics.jsonl", clock.step) if leader() else Silent()
    began = time.perf_counter() - clock.seconds
    saved, _ = agree(clock.seconds)
    best, _ = agree(best_so_far(folder / "metrics.jsonl") if leader() else math.inf)
    validations = int(trainer.progress * (settings.validations + 1))
    lengths: list[float] = []
    asked, told = agree(0.0, stop())[1], False
    try:
        while trainer.progress < 1 and not asked:
            before = time.perf_counter()
            facts = trainer.step()
            length = time.perf_counter() - before
            clock.seconds, _ = agree(time.perf_counter() - began)
            usual = statistics.median(lengths) if len(lengths) >= OFTEN else math.inf
            like_most = trainer.recorder is None or bool(trainer.recorder.failed) or trainer.recorder.replayed
            lengths = [*lengths, length][-USUAL:] if like_most else lengths
            line = metrics_line(trainer, facts)
            if like_most and length > max(SLOW * usual, SHORT):
                yield Slow(clock.step, length, usual)
            if trainer.recorder is not None and trainer.recorder.failed and not told:
                told = True
                yield Unrecorded(trainer.recorder.failed)
            logged = clock.step % settings.log_every == 0 or clock.step == 1 or trainer.progress >= 1
            logged = logged or facts.diagnosis is not None or facts.skipped is not None
            if logged or settings.minutes:
                metrics.write(line if logged else {name: line[name] for name in BRIEF})
            yield Stepped(line, facts) if facts.skipped is None else Skipped(clock.step, facts.skipped)
            due = int(trainer.progress * (settings.validations + 1))
            if validate is not None and due > validations and trainer.progress < 1:
                validations = due
                bits, _ = agree(validate())
                metrics.write(
                    {
                        "step": clock.step,
                        "trained_characters": clock.characters,
                        "split": "valid",
                        "part": True,
                        "bits_per_character": bits,
                    }
                )
                if bits < best:
                    save_whole(folder / "best.safetensors", trainer.network.state_dict())
                yield Validated(bits, bits < best)
                best = min(best, bits)
            if clock.seconds - saved > settings.checkpoint_seconds and trainer.progress < 1:
                saved = clock.seconds
                metrics.sync()
                yield Saved(save(trainer, folder), False)
            clock.seconds, asked = agree(time.perf_counter() - began, stop())
        metrics.sync()
        path = save(trainer, folder)
        if trainer.progress >= 1 and validate is not None and agree(validate())[0] <= best and leader():
            (folder / "best.safetensors").unlink(missing_ok=True)
        yield Saved(path, trainer.progress < 1)
    finally:
        metrics.close()


def sweep(folder: Path) -> None:
    """Removes what a run that was killed had begun to write; whoever trains has the run to himself."""
    if leader():
        for part in [*folder.glob(".*.part"), *(folder / "checkpoints").glob(".*.part")]:
            shutil.rmtree(part) if part.is_dir() and not part.is_symlink() else part.unlink(missing_ok=True)
    wait()


def save(trainer: Trainer, folder: Path) -> Path:
    """A checkpoint, and the weights it deploys. Raises NotFinite for weights that would make it a bad one."""
    trainer.check_weights()
    path = save_checkpoint(folder / "checkpoints", trainer.checkpoint())
    save_whole(folder / "model.safetensors", trainer.network.state_dict())
    save_whole(folder / "heads.safetensors", trainer.objective.state_dict())
    return path


def save_whole(path: Path, tensors: dict[str, Tensor]) -> None:
    """A file of tensors in one piece each, written by rank 0."""
    tensors = gathered(tensors)
    if leader():
        save_tensors(path, tensors)


def best_so_far(path: Path) -> float:
    """The best validation that metrics.jsonl has, in bits per character."""
    return min((line["bits_per_character"] for line in read_metrics(path) if is_validation(line)), default=math.inf)


def metrics_line(trainer: Trainer, facts: StepFacts) -> dict[str, Any]:
    """One step as JSON. Losses, total and shares in bits; of a step that was left out the reason and no losses."""
    clock = trainer.clock
    line: dict[str, Any] = {
        "step": clock.step,
        "progress": facts.progress,
        "characters": clock.characters,
        "seconds": round(clock.seconds, 3),
        "learning_rate": facts.rate,
    }
    if facts.skipped is not None:
        return line | {"skipped": facts.skipped}
    line |= {
        "gradient_norm": facts.gradient_norm,
        "total": float(facts.report.total) * BITS,
        "terms": {
            name: {"bits": term.bits, "weight": term.weight, "share": term.share * BITS}
            for name, term in facts.report.terms.items()
        },
    }
    return line if facts.diagnosis is None else line | {"diagnosis": facts.diagnosis.as_dict()}
