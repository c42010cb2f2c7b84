"""The loop of a run: steps until the budget is spent, validation, metrics and checkpoints on the way.

`train` is an iterator of events, so that a display of the run is independent of its training.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from charladder.atomic_io import remove_stale_parts
from charladder.training.best_weights import BEST_NETWORK_FILE, BestWeights, read_best, remove_best, save_best
from charladder.training.checkpoint import save_checkpoint
from charladder.training.config import TrainingConfig
from charladder.training.distributed import barrier, broadcast_and_any, full_tensors, is_rank_zero
from charladder.training.identity import identity_metadata
from charladder.training.metrics import Metrics, NullMetrics, is_validation, read_metrics
from charladder.training.stopwatch import Stopwatch
from charladder.training.tensor_files import save_tensors
from charladder.training.trainer import StepResult, Trainer

_BITS_PER_NAT = 1 / math.log(2)
_BRIEF_FIELDS = "step", "progress", "characters", "seconds", "learning_rate"
SLOW_FACTOR = 10.0  # times the median of the last steps from which a step is slow
MIN_TIMED_STEPS = 20  # steps before the first comparison
TIMED_STEPS = 64  # last steps whose median is taken
MIN_SLOW_SECONDS = 0.1  # seconds below which a step is never slow


@dataclass(frozen=True)
class StepCompleted:
    """After a step. `line` is what metrics.jsonl has of it."""

    line: dict[str, Any]
    facts: StepResult


@dataclass(frozen=True)
class StepSkipped:
    """After a step that changed no weights, because its loss or gradient was not finite or its loss was a spike."""

    step: int
    reason: str


@dataclass(frozen=True)
class SlowStep:
    """After a step that took much longer than the median of the latest ones, in seconds."""

    step: int
    seconds: float
    median_seconds: float


@dataclass(frozen=True)
class ValidationCompleted:
    """After scoring a stretch of the valid part, in bits per character."""

    bits_per_character: float
    best: bool


@dataclass(frozen=True)
class CheckpointSaved:
    """After a checkpoint. interrupted: training stopped before its end, on request. early: it has ended before its
    budget was spent, because training.patience is used up."""

    path: Path
    interrupted: bool
    early: bool = False


@dataclass(frozen=True)
class CaptureFailed:
    """The capture of a CUDA graph (training.compile) failed, and later steps run without one."""

    reason: str


Event = StepCompleted | StepSkipped | SlowStep | ValidationCompleted | CheckpointSaved | CaptureFailed


def train(
    trainer: Trainer,
    folder: Path,
    validate: Callable[[], float] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Trains until the budget or training.patience is used up, or `stop()`; writes checkpoints, metrics, the newest
    weights and, while they are better, the best ones to `folder`.

    `validate` returns bits per character of a stretch of held-out text. Time is added to what the run had spent before,
    except while the process is stopped (SIGSTOP). Raises TrainingDiverged, and leaves the last checkpoint unchanged.
    Under several ranks all of them go through the same events; rank 0 writes.
    """
    settings, clock = trainer.settings, trainer.clock
    remove_partial_files(folder)
    if clock.step == 0 and is_rank_zero():
        remove_best(folder)  # of a run that ended before its first checkpoint
    metrics = Metrics(folder / "metrics.jsonl", clock.step) if is_rank_zero() else NullMetrics()
    watch = Stopwatch(clock.seconds)
    saved, _ = broadcast_and_any(clock.seconds)
    lowest, _ = broadcast_and_any(min(read_validation_bits(folder), default=math.inf) if is_rank_zero() else math.inf)
    kept, _ = broadcast_and_any(_best_bits(folder, lowest) if is_rank_zero() else math.inf)
    if validate is not None and _last_weights_are_best(trainer, folder):
        bits, _ = broadcast_and_any(validate())
        kept = _save_as_best(trainer, folder, bits) if math.isfinite(bits) else math.inf
    worse = round(broadcast_and_any(_validations_since_best(folder) if is_rank_zero() else 0)[0])
    validations = int(trainer.progress * (settings.validations + 1))
    lengths: list[float] = []
    asked, told = broadcast_and_any(0.0, stop())[1], False
    watch.start()
    try:
        while trainer.progress < 1 and not asked and not _is_patience_exhausted(settings, worse):
            before = time.perf_counter()
            facts = trainer.step()
            length = time.perf_counter() - before
            clock.seconds, _ = broadcast_and_any(watch.seconds())
            usual = statistics.median(lengths) if len(lengths) >= MIN_TIMED_STEPS else math.inf
            like_most = trainer.step_graph is None or bool(trainer.step_graph.failure) or trainer.step_graph.is_replayed
            lengths = [*lengths, length][-TIMED_STEPS:] if like_most else lengths
            line = _metrics_line(trainer, facts)
            if like_most and length > max(SLOW_FACTOR * usual, MIN_SLOW_SECONDS):
                yield SlowStep(clock.step, length, usual)
            if trainer.step_graph is not None and trainer.step_graph.failure and not told:
                told = True
                yield CaptureFailed(trainer.step_graph.failure)
            logged = clock.step % settings.log_every == 0 or clock.step == 1 or trainer.progress >= 1
            logged = logged or facts.diagnosis is not None or facts.skipped is not None
            if logged or settings.minutes:
                metrics.write(line if logged else {name: line[name] for name in _BRIEF_FIELDS})
            yield StepCompleted(line, facts) if facts.skipped is None else StepSkipped(clock.step, facts.skipped)
            due = int(trainer.progress * (settings.validations + 1))
            if validate is not None and due > validations and trainer.progress < 1:
                validations = due
                bits, _ = broadcast_and_any(validate())
                metrics.write(
                    {
                        "step": clock.step,
                        "trained_characters": clock.characters,
                        "split": "valid",
                        "part": True,
                        "bits_per_character": bits,
                    }
                )
                better = bits < lowest
                worse, lowest = (0, bits) if better else (worse + 1, lowest)
                if bits < kept:
                    kept = _save_as_best(trainer, folder, bits)
                yield ValidationCompleted(bits, better)
            if clock.seconds - saved > settings.checkpoint_seconds and trainer.progress < 1:
                saved = clock.seconds
                metrics.sync()
                yield CheckpointSaved(_save(trainer, folder), False)
            clock.seconds, asked = broadcast_and_any(watch.seconds(), stop())
        metrics.sync()
        path = _save(trainer, folder)
        early = trainer.progress < 1 and _is_patience_exhausted(settings, worse)
        ended = trainer.progress >= 1 or early
        if ended and validate is not None and broadcast_and_any(validate())[0] <= kept and is_rank_zero():
            remove_best(folder)
        yield CheckpointSaved(path, not ended, early)
    finally:
        watch.close()
        metrics.close()


def remove_partial_files(folder: Path) -> None:
    """Removes what a run that was killed had begun to write. No other process trains the run at the same time."""
    if is_rank_zero():
        remove_stale_parts(folder, ".*.part", ".tmp*")  # .tmp*: of safetensors, in runs of version 0.1.0
        remove_stale_parts(folder / "checkpoints", ".*.part")
    barrier()


def _save(trainer: Trainer, folder: Path) -> Path:
    """A checkpoint, and the weights it deploys. Raises TrainingDiverged for weights that would make it a bad one."""
    trainer.check_weights()
    path = save_checkpoint(folder / "checkpoints", trainer.checkpoint())
    _save_full_tensors(folder / "model.safetensors", trainer.network.state_dict(), trainer.identity)
    _save_full_tensors(folder / "heads.safetensors", trainer.objective.state_dict(), trainer.identity)
    return path


def _save_full_tensors(path: Path, tensors: dict[str, Tensor], identity: str | None) -> None:
    """A file of tensors in one piece each, written by rank 0."""
    tensors = full_tensors(tensors)
    if is_rank_zero():
        save_tensors(path, tensors, identity_metadata(identity))


def _save_as_best(trainer: Trainer, folder: Path, bits: float) -> float:
    """Saves the weights as the best ones; returns their bits."""
    best = BestWeights(trainer.clock.step, bits)
    save_best(folder, trainer.network.state_dict(), trainer.objective.state_dict(), best, trainer.identity)
    return bits


def _best_bits(folder: Path, lowest: float) -> float:
    """Bits per character of the best weights in `folder`: by their header, or else `lowest`, of all validations.

    The header may name a later step than the run is at: one that a crash took away, and that will come again.
    """
    best = read_best(folder / BEST_NETWORK_FILE)
    return lowest if best is None else best.bits


def _last_weights_are_best(trainer: Trainer, folder: Path) -> bool:
    """Whether a run that has ended and now goes on ended with its best weights, of which there is no second copy."""
    found = is_rank_zero() and not (folder / BEST_NETWORK_FILE).exists() and bool(read_validation_bits(folder))
    return broadcast_and_any(0.0, found and trainer.progress < 1)[1]


def read_validation_bits(folder: Path) -> list[float]:
    """Bits per character of all validations in metrics.jsonl, in their order; infinite where they were not finite."""
    lines = read_metrics(folder / "metrics.jsonl")
    found = [line["bits_per_character"] for line in lines if is_validation(line)]
    return [bits if math.isfinite(bits) else math.inf for bits in found]


def _validations_since_best(folder: Path) -> int:
    """How many validations in metrics.jsonl came after the best one; all of them where none was finite."""
    bits = read_validation_bits(folder)
    lowest = min(bits, default=math.inf)
    return len(bits) - 1 - bits.index(lowest) if lowest < math.inf else len(bits)


def ended_early(folder: Path, settings: TrainingConfig) -> bool:
    """Whether the run in `folder` has used up training.patience."""
    return (folder / "metrics.jsonl").is_file() and _is_patience_exhausted(settings, _validations_since_best(folder))


def _is_patience_exhausted(settings: TrainingConfig, worse: int) -> bool:
    """Whether so many validations without a better one are too many."""
    return 0 < settings.patience <= worse


def _metrics_line(trainer: Trainer, facts: StepResult) -> dict[str, Any]:
    """One step as JSON. Losses, total and shares in bits; of a step that was left out the reason and no losses."""
    clock = trainer.clock
    line: dict[str, Any] = {
        "step": clock.step,
        "progress": facts.progress,
        "characters": clock.characters,
        "seconds": round(clock.seconds, 3),
        "learning_rate": facts.learning_rate,
    }
    if facts.skipped is not None:
        return line | {"skipped": facts.skipped}
    line |= {
        "gradient_norm": facts.gradient_norm,
        "total": float(facts.report.total) * _BITS_PER_NAT,
        "terms": {
            name: {"bits": term.bits, "weight": term.weight, "share": term.share * _BITS_PER_NAT}
            for name, term in facts.report.terms.items()
        },
    }
    return line if facts.diagnosis is None else line | {"diagnosis": facts.diagnosis.as_dict()}
