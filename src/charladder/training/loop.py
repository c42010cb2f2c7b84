"""The loop of a run: steps until the budget is spent, validation, metrics and checkpoints on the way.

It is an iterator of events, so that whoever displays a run needs nothing from whoever trains it.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charladder.training.checkpoint import save_checkpoint
from charladder.training.files import save_tensors
from charladder.training.metrics import Metrics, read_metrics
from charladder.training.trainer import StepFacts, Trainer

BITS = 1 / math.log(2)


@dataclass(frozen=True)
class Stepped:
    """After a step. `line` is what metrics.jsonl has of it."""

    line: dict[str, Any]
    facts: StepFacts


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


Event = Stepped | Validated | Saved


def train(
    trainer: Trainer,
    folder: Path,
    validate: Callable[[], float] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Trains until the budget is spent or `stop()`; writes checkpoints, metrics and the newest weights to `folder`.

    `validate` returns bits per character of a stretch of held-out text. Time is counted from here on, all of it,
    on top of what the run had spent before. Raises NotFinite, with the last checkpoint left as it is.
    """
    settings, clock = trainer.settings, trainer.clock
    metrics = Metrics(folder / "metrics.jsonl", clock.step)
    began, saved = time.perf_counter() - clock.seconds, time.perf_counter()
    best = best_so_far(metrics.path)
    validations = int(trainer.progress * (settings.validations + 1))
    try:
        while trainer.progress < 1 and not stop():
            facts = trainer.step()
            clock.seconds = time.perf_counter() - began
            line = metrics_line(trainer, facts)
            logged = clock.step % settings.log_every == 0 or clock.step == 1 or trainer.progress >= 1
            logged = logged or facts.diagnosis is not None
            if logged or settings.minutes:
                brief = {name: line[name] for name in ("step", "progress", "characters", "seconds", "learning_rate")}
                metrics.write(line if logged else brief)
            yield Stepped(line, facts)
            due = int(trainer.progress * (settings.validations + 1))
            if validate is not None and due > validations and trainer.progress < 1:
                validations = due
                bits = validate()
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
                    save_tensors(folder / "best.safetensors", trainer.network.state_dict())
                yield Validated(bits, bits < best)
                best = min(best, bits)
            if time.perf_counter() - saved > settings.checkpoint_seconds and trainer.progress < 1:
                saved = time.perf_counter()
                yield Saved(save(trainer, folder), False)
            clock.seconds = time.perf_counter() - began
        path = save(trainer, folder)
        if trainer.progress >= 1 and validate is not None and validate() <= best:
            (folder / "best.safetensors").unlink(missing_ok=True)
        yield Saved(path, trainer.progress < 1)
    finally:
        metrics.close()


def save(trainer: Trainer, folder: Path) -> Path:
    """A checkpoint, and the weights it deploys. Raises NotFinite for weights that would make it a bad one."""
    trainer.check_weights()
    path = save_checkpoint(folder / "checkpoints", trainer.checkpoint())
    save_tensors(folder / "model.safetensors", trainer.network.state_dict())
    save_tensors(folder / "heads.safetensors", trainer.objective.state_dict())
    return path


def best_so_far(path: Path) -> float:
    """The best validation of the same stretch that metrics.jsonl has, in bits per character."""

    return min(
        (line["bits_per_character"] for line in read_metrics(path) if "split" in line and line.get("part")),
        default=math.inf,
    )


def metrics_line(trainer: Trainer, facts: StepFacts) -> dict[str, Any]:
    """One step as JSON. Losses, total and shares in bits."""
    clock = trainer.clock
    diagnosis = {} if facts.diagnosis is None else {"diagnosis": facts.diagnosis.as_dict()}
    return {
        "step": clock.step,
        "progress": facts.progress,
        "characters": clock.characters,
        "seconds": round(clock.seconds, 3),
        "learning_rate": facts.rate,
        "gradient_norm": facts.gradient_norm,
        "total": float(facts.report.total) * BITS,
        "terms": {
            name: {"bits": term.bits, "weight": term.weight, "share": term.share * BITS}
            for name, term in facts.report.terms.items()
        },
        **diagnosis,
    }
