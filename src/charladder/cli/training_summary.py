"""The end of `charladder train`: the final score, the plot, and the summary."""

import time
from dataclasses import dataclass, replace

from rich.console import Console

from charladder.cli.final_score import score_after_training
from charladder.cli.next_steps import commands_after_training
from charladder.cli.scoring import print_score
from charladder.cli.signals import INTERRUPTED_EXIT_CODE, interrupt_on_signal
from charladder.cli.tracking import RunTracking
from charladder.cli.training_notes import closing_notes, read_best_weights
from charladder.cli.training_outcome import TrainingOutcome
from charladder.run import Run
from charladder.shell_words import quote_path
from charladder.strict_json import dumps
from charladder.text import Corpus
from charladder.training import Trainer
from charladder.training.curves import draw_curves
from charladder.training.memory import peak_bytes


@dataclass(frozen=True)
class SummaryOptions:
    """Options of the end of `train`.

    score: --score. as_json: --json. setup_seconds: time to read the text and create the network, outside the budget.
    """

    score: str | int | None
    as_json: bool
    setup_seconds: float


def summarize(
    console: Console,
    run: Run,
    corpus: Corpus,
    trainer: Trainer,
    options: SummaryOptions,
    outcome: TrainingOutcome,
    tracking: RunTracking,
) -> int:
    """Scores the run, draws its curves and prints the next commands; returns the exit code."""
    counters, name = trainer.counters, quote_path(run.path)
    began = time.perf_counter()
    validated = outcome.last_validation
    try:
        with interrupt_on_signal():
            if outcome.stop_requested:
                raise KeyboardInterrupt
            score = score_after_training(console, run, corpus, trainer, options.score, outcome)
    except KeyboardInterrupt:
        sentence = f"training is done and saved, its score was interrupted; score it with: charladder evaluate {name}"
        console.print(sentence, soft_wrap=True, markup=False, highlight=False)
        return INTERRUPTED_EXIT_CODE
    scoring_seconds = time.perf_counter() - began + (validated.seconds if validated else 0.0)
    bits = None if score is None else score["bits_per_character"]
    tracking_notes = tracking.finish(True)
    plot = draw_curves(run.path)
    memory = peak_bytes(trainer.device)
    speed = counters.characters / counters.seconds if counters.seconds else 0.0
    best = read_best_weights(run)
    notes = closing_notes(run, corpus, outcome, score)
    more = f"--patience {2 * trainer.settings.patience}" if outcome.ended_early else _doubled_budget(trainer)
    read = run if best is None else replace(run, weights="best")
    following = "\n        ".join(commands_after_training(read, corpus, more, console.encoding))
    where = f"{plot}" if plot else 'no curves.png, because matplotlib is missing: pip install "charladder[plot]"'
    console.print(
        f"{counters.step:,} steps, {counters.characters:,} characters in {counters.seconds:.0f} s "
        f"({speed:,.0f} characters/s), {trainer.windows.passes:.2f} passes over the training text"
        f"{f', peak memory {memory / 2**30:.2f} GiB' if memory else ''}\n"
        f"outside the budget: {options.setup_seconds:.0f} s to read the text and create the network, "
        f"{scoring_seconds:.0f} s to score\n"
        f"curves: {where}\n"
        f"next:   {following}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False, highlight=False)
    if score is not None:
        print_score(console, score)
    if options.as_json:
        print(
            dumps(
                {
                    "run": str(run.path),
                    "steps": counters.step,
                    "seconds": counters.seconds,
                    "characters_per_second": speed,
                    "valid_bits_per_character": bits,
                    "scored": score,
                    "best": None if best is None else {"step": best.step, "bits_per_character": best.bits},
                    "ended_early": outcome.ended_early,
                    "notes": [*notes, *tracking_notes],
                    "reading_seconds": options.setup_seconds,
                    "scoring_seconds": scoring_seconds,
                    "peak_memory_bytes": memory,
                }
            )
        )
    return 0


def _doubled_budget(trainer: Trainer) -> str:
    """Twice the budget, as an option."""
    settings = trainer.settings
    if settings.minutes:
        return f"--minutes {2 * settings.minutes:g}"
    return f"--steps {2 * settings.steps}" if settings.steps else f"--chars {2 * settings.characters}"
