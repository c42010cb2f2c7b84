"""Detailed scores for `evaluate`: each function returns its key in the JSON, its rows, and a table."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich.console import Console
from torch import nn

from charladder.cli.notes import print_note
from charladder.cli.progress import scoring_bar
from charladder.cli.scoring import ScoringJob, score_job
from charladder.cli.tables import AdaptiveTable
from charladder.errors import UserError
from charladder.evaluation import Score, ScoredCharacters
from charladder.evaluation.by_context import context_lengths, evaluate_by_context, evaluate_by_position
from charladder.evaluation.copying_probe import probe_copying
from charladder.evaluation.last_learned import LastLearned, TrainingMoment, last_learned
from charladder.evaluation.layers import evaluate_layers
from charladder.generation.speculative.heads_file import HeadsMetadata, load_heads

TableResult = tuple[str, list[dict[str, Any]], AdaptiveTable]


def score_by_context(console: Console, job: ScoringJob, stride: int | None) -> TableResult:
    """Bits per character by context, as in Table 2 of the paper."""
    parts = evaluate_by_context(_scorer(console, job), context_lengths(job.context), stride)
    table = AdaptiveTable("context", "stride", "bits/char", "accuracy", "seconds", title="by context")
    for part in parts:
        table.add_row(
            str(part.context), str(part.stride), f"{part.bits_per_character:.4f}", f"{part.accuracy:.1%}",
            f"{part.seconds:.1f}",
        )  # fmt: skip
    return "by_context", [asdict(part) for part in parts], table


def score_by_position(console: Console, job: ScoringJob) -> TableResult:
    parts = evaluate_by_position(_scorer(console, job), job.context)
    table = AdaptiveTable("up to", "bits/char", "accuracy", "characters", title="by characters before it in the window")
    for part in parts:
        table.add_row(
            str(part.context), f"{part.bits_per_character:.4f}", f"{part.accuracy:.1%}", f"{part.characters:,}"
        )
    rows = [
        {
            "up_to": part.context, "bits_per_character": part.bits_per_character, "accuracy": part.accuracy,
            "characters": part.characters,
        }
        for part in parts
    ]  # fmt: skip
    return "by_position", rows, table


def _scorer(console: Console, job: ScoringJob) -> Callable[[int, int, Callable[[ScoredCharacters], None]], Score]:
    """Scores the job with another context and stride."""
    return lambda context, stride, on_scored: score_job(console, job, context, stride, on_scored)


def score_by_layer(console: Console, job: ScoringJob) -> TableResult:
    objective = job.run.load_objective().to(job.device).eval()
    refit_heads, metadata = _load_refit_heads(job)
    with scoring_bar(console, "by layer", job.bounds[1] - job.bounds[0]) as report:
        scores = evaluate_layers(
            job.network, objective, job.corpus.ids_N, job.bounds, job.context, job.stride, job.ends_F, report,
            refit_heads=refit_heads,
        )  # fmt: skip
    learned = last_learned(job.run)
    shared = job.run.recipe.objective.intermediate_heads == "shared"
    names = "term", "characters ahead", "bits/char", "last learned at", "last in the loss at"
    table = AdaptiveTable(*names[: 5 if shared else 4], title=f"by layer{', through shared heads' if shared else ''}")
    rows = []
    for score in scores:
        if metadata is not None and score.term.endswith(".refit"):
            last = {"step": metadata.steps, "progress": None, "characters": metadata.characters}
            contributed, at = None, f"refit step {metadata.steps:,}"
        else:
            when = learned.get(score.term, LastLearned(None, None))
            last, contributed, at = _moment_entries(when.head), when.contributed, _format_moment(when.head)
        more = [_format_moment(contributed)] if shared else []
        table.add_row(score.term, str(score.target), f"{score.bits_per_character:.4f}", at, *more)
        rows.append(
            {
                "term": score.term, "layer": score.layer, "target": score.target, "characters": score.characters,
                "bits_per_character": score.bits_per_character, "last_learned": last,
                "last_contributed": _moment_entries(contributed),
            }
        )  # fmt: skip
    return "by_layer", rows, table


def _load_refit_heads(job: ScoringJob) -> tuple[dict[int, nn.Module], HeadsMetadata | None]:
    """The heads that `refit` has fitted to intermediate layers, and their training; none if there are none.

    Prints a note if they belong to another network.
    """
    try:
        refit = load_heads(job.run)
    except UserError as error:
        print_note(f"{error}; the heads of refit are not scored")
        refit = None
    if refit is None:
        return {}, None
    heads, metadata = refit
    return {int(layer): head.to(job.device) for layer, head in heads.early_exit.items()}, metadata


def _format_moment(moment: TrainingMoment | None) -> str:
    return "never" if moment is None else f"step {moment.step:,} ({moment.progress:.0%})"


def _moment_entries(moment: TrainingMoment | None) -> dict[str, Any] | None:
    return None if moment is None else asdict(moment)


def score_copying(job: ScoringJob, probes: int, seed: int) -> TableResult:
    corpus = job.corpus
    results = probe_copying(
        job.predict, corpus.alphabet, corpus.ids_N, job.bounds, job.context, probes, seed, job.device
    )
    table = AdaptiveTable(
        "characters on", "mentioned", "never mentioned", "saved a letter", "median rank", "and without",
        title=f"{probes} invented names that come again: bits of letters 1, 2, 3 and 4 to 8",
    )  # fmt: skip
    for result in results:
        cells = [_format_by_letter(result.bits_L), _format_by_letter(result.control_bits_L)]
        ranks = [_format_by_letter(result.ranks_L, 0), _format_by_letter(result.control_ranks_L, 0)]
        table.add_row(str(result.distance), *cells, f"{result.saved:.2f} ± {result.saved_within:.2f}", *ranks)
    return "copying", [result.as_dict() for result in results], table


def _format_by_letter(values_L: list[float], decimals: int = 1) -> str:
    rest = sum(values_L[3:]) / len(values_L[3:])
    return "  ".join(f"{value:.{decimals}f}" for value in (*values_L[:3], rest))
