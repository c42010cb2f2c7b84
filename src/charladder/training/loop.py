"""The training loop: steps until the budget is spent, validations, metrics and checkpoints.

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
SLOW_FACTOR = 10.0  # a step is slow if it takes longer than this many times the median of the last steps
MIN_TIMED_STEPS = 20  # steps before the first comparison
TIMED_STEPS = 64  # steps of which the median is taken
MIN_SLOW_SECONDS = 0.1  # a shorter step is never slow


@dataclass(frozen=True)
class StepCompleted:
    """After a step. line: the step as a line of metrics.jsonl, which is written for some steps only."""

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
    """After scoring a prefix of the valid part. best: the score is better than that of all validations before."""

    bits_per_character: float
    best: bool


@dataclass(frozen=True)
class CheckpointSaved:
    """After a checkpoint. interrupted: training stopped on request. early: training ended before its budget was spent,
    because training.patience is exhausted."""

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
    """Trains until the budget or training.patience is exhausted, or `stop()` is true. Writes checkpoints, metrics, the
    last weights and, if they are better than these, the best weights to `folder`.

    `validate` returns the bits per character of held-out text. Seconds continue from those of the restored checkpoint,
    without the time for which the process was stopped (SIGSTOP). Raises TrainingDiverged, and then leaves the last
    checkpoint unchanged. All ranks yield the same events; rank 0 writes.
    """
    settings, counters = trainer.settings, trainer.counters
    remove_partial_files(folder)
    if counters.step == 0 and is_rank_zero():
        remove_best(folder)  # from a run that was killed before its first checkpoint
    metrics = Metrics(folder / "metrics.jsonl", counters.step) if is_rank_zero() else NullMetrics()
    watch = Stopwatch(counters.seconds)
    last_save_seconds, _ = broadcast_and_any(counters.seconds)
    lowest, _ = broadcast_and_any(min(read_validation_bits(folder), default=math.inf) if is_rank_zero() else math.inf)
    best_bits, _ = broadcast_and_any(_best_bits(folder, lowest) if is_rank_zero() else math.inf)
    if validate is not None and _last_weights_are_best(trainer, folder):
        bits, _ = broadcast_and_any(validate())
        best_bits = _save_as_best(trainer, folder, bits) if math.isfinite(bits) else math.inf
    since_best = round(broadcast_and_any(_validations_since_best(folder) if is_rank_zero() else 0)[0])
    validations = int(trainer.progress * (settings.validations + 1))
    durations: list[float] = []
    should_stop, has_reported_failure = broadcast_and_any(0.0, stop())[1], False
    watch.start()
    try:
        while trainer.progress < 1 and not should_stop and not _is_patience_exhausted(settings, since_best):
            start = time.perf_counter()
            facts = trainer.step()
            duration = time.perf_counter() - start
            counters.seconds, _ = broadcast_and_any(watch.seconds())
            median = statistics.median(durations) if len(durations) >= MIN_TIMED_STEPS else math.inf
            graph = trainer.step_graph
            is_comparable = graph is None or bool(graph.failure) or graph.is_replayed
            durations = [*durations, duration][-TIMED_STEPS:] if is_comparable else durations
            line = _metrics_line(trainer, facts)
            if is_comparable and duration > max(SLOW_FACTOR * median, MIN_SLOW_SECONDS):
                yield SlowStep(counters.step, duration, median)
            if graph is not None and graph.failure and not has_reported_failure:
                has_reported_failure = True
                yield CaptureFailed(graph.failure)
            is_logged = counters.step % settings.log_every == 0 or counters.step == 1 or trainer.progress >= 1
            is_logged = is_logged or facts.diagnosis is not None or facts.skipped is not None
            if is_logged or settings.minutes:
                metrics.write(line if is_logged else {name: line[name] for name in _BRIEF_FIELDS})
            yield StepCompleted(line, facts) if facts.skipped is None else StepSkipped(counters.step, facts.skipped)
            due = int(trainer.progress * (settings.validations + 1))
            if validate is not None and due > validations and trainer.progress < 1:
                validations = due
                bits, _ = broadcast_and_any(validate())
                metrics.write(
                    {
                        "step": counters.step,
                        "trained_characters": counters.characters,
                        "split": "valid",
                        "part": True,
                        "bits_per_character": bits,
                    }
                )
                is_better = bits < lowest
                since_best, lowest = (0, bits) if is_better else (since_best + 1, lowest)
                if bits < best_bits:
                    best_bits = _save_as_best(trainer, folder, bits)
                yield ValidationCompleted(bits, is_better)
            if counters.seconds - last_save_seconds > settings.checkpoint_seconds and trainer.progress < 1:
                last_save_seconds = counters.seconds
                metrics.sync()
                yield CheckpointSaved(_save(trainer, folder), False)
            counters.seconds, should_stop = broadcast_and_any(watch.seconds(), stop())
        metrics.sync()
        path = _save(trainer, folder)
        is_early = trainer.progress < 1 and _is_patience_exhausted(settings, since_best)
        has_ended = trainer.progress >= 1 or is_early
        if has_ended and validate is not None and broadcast_and_any(validate())[0] <= best_bits and is_rank_zero():
            remove_best(folder)
        yield CheckpointSaved(path, not has_ended, is_early)
    finally:
        watch.close()
        metrics.close()


def remove_partial_files(folder: Path) -> None:
    """Removes temporary files that a killed process left. The caller holds the lock of the run."""
    if is_rank_zero():
        remove_stale_parts(folder, ".*.part", ".tmp*")  # safetensors wrote .tmp* in version 0.1.0
        remove_stale_parts(folder / "checkpoints", ".*.part")
    barrier()


def _save(trainer: Trainer, folder: Path) -> Path:
    """Saves a checkpoint and the weight files; returns the path of the checkpoint. Raises TrainingDiverged, and saves
    nothing, if a weight is not finite."""
    trainer.check_weights()
    path = save_checkpoint(folder / "checkpoints", trainer.checkpoint())
    _save_full_tensors(folder / "model.safetensors", trainer.network.state_dict(), trainer.identity)
    _save_full_tensors(folder / "heads.safetensors", trainer.objective.state_dict(), trainer.identity)
    return path


def _save_full_tensors(path: Path, tensors: dict[str, Tensor], identity: str | None) -> None:
    """Gathers sharded tensors on all ranks, and writes them to `path` on rank 0."""
    tensors = full_tensors(tensors)
    if is_rank_zero():
        save_tensors(path, tensors, identity_metadata(identity))


def _save_as_best(trainer: Trainer, folder: Path, bits: float) -> float:
    """Saves the current weights as the best ones; returns `bits`."""
    best = BestWeights(trainer.counters.step, bits)
    save_best(folder, trainer.network.state_dict(), trainer.objective.state_dict(), best, trainer.identity)
    return bits


def _best_bits(folder: Path, lowest: float) -> float:
    """Bits per character of the best weights: from the metadata of their file, or `lowest` if there is no file.

    After a crash the file may be of a later step than the restored checkpoint; the run will reach that step again.
    """
    best = read_best(folder / BEST_NETWORK_FILE)
    return lowest if best is None else best.bits


def _last_weights_are_best(trainer: Trainer, folder: Path) -> bool:
    """Whether the run resumes with its last weights as the best ones, of which there is no separate file."""
    are_best = is_rank_zero() and not (folder / BEST_NETWORK_FILE).exists() and bool(read_validation_bits(folder))
    return broadcast_and_any(0.0, are_best and trainer.progress < 1)[1]


def read_validation_bits(folder: Path) -> list[float]:
    """Bits per character of all validations in metrics.jsonl, in order; NaN is returned as infinity."""
    lines = read_metrics(folder / "metrics.jsonl")
    scores = [line["bits_per_character"] for line in lines if is_validation(line)]
    return [bits if math.isfinite(bits) else math.inf for bits in scores]


def _validations_since_best(folder: Path) -> int:
    """The number of validations in metrics.jsonl after the best one; all of them if none was finite."""
    bits = read_validation_bits(folder)
    lowest = min(bits, default=math.inf)
    return len(bits) - 1 - bits.index(lowest) if lowest < math.inf else len(bits)


def ended_early(folder: Path, settings: TrainingConfig) -> bool:
    """Whether the run in `folder` has exhausted training.patience."""
    return (folder / "metrics.jsonl").is_file() and _is_patience_exhausted(settings, _validations_since_best(folder))


def _is_patience_exhausted(settings: TrainingConfig, validations_since_best: int) -> bool:
    """Whether training ends early after this many validations without improvement."""
    return 0 < settings.patience <= validations_since_best


def _metrics_line(trainer: Trainer, facts: StepResult) -> dict[str, Any]:
    """One step as a line of metrics.jsonl: losses, total and shares in bits, or the reason why the step was skipped."""
    counters = trainer.counters
    line: dict[str, Any] = {
        "step": counters.step,
        "progress": facts.progress,
        "characters": counters.characters,
        "seconds": round(counters.seconds, 3),
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
