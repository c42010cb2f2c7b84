"""Scoring of a run with a progress bar, for `evaluate` and for the end of `train`."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console

from charladder.cli.progress import scoring_bar
from charladder.errors import UserError
from charladder.evaluation import Score, ScoredCharacters, evaluate
from charladder.model import Transformer
from charladder.model.config import MAX_SIZE
from charladder.run import Run, file_ends, split_corpus
from charladder.strict_json import find_non_finite
from charladder.text import Corpus


def check_context(run: Run, context: int) -> None:
    """Raises UserError for a context that the network cannot have; warns if it is longer than in training."""
    settings = run.recipe.model
    if context < 2:
        raise UserError(f"--context {context} is too small; it must be at least 2 characters")
    if context > MAX_SIZE["context"]:
        raise UserError(f"--context {context} is too large; it must be at most {MAX_SIZE['context']:,} characters")
    if context > settings.context and settings.learned_positions:
        raise UserError(
            f"--context {context} is longer than the position tables of {run.path}, which end at {settings.context}"
        )
    if context > settings.context:
        warning = f"warning: {run.path} was trained at context {settings.context}, not {context}"
        print(warning, file=sys.stderr)


@dataclass(frozen=True)
class ScoringJob:
    """A part of a text to be scored by a network, with context and stride."""

    run: Run
    network: Transformer
    corpus: Corpus
    split: str
    bounds: tuple[int, int]
    context: int
    stride: int
    device: torch.device | str

    @property
    def ends_F(self) -> np.ndarray | None:
        return file_ends(self.run.recipe, self.corpus)

    def predict(self, tokens_BT: torch.Tensor, keep: int | None = None) -> torch.Tensor:
        return self.network(tokens_BT, logits_to_keep=keep).logits_BTV


def open_scoring_job(
    run: Run,
    corpus: Corpus,
    split: str,
    context: int | None = None,
    stride: int | None = None,
    limit: int | None = None,
    device: torch.device | str = "cpu",
) -> ScoringJob:
    """`part`: valid, test or all. Raises UserError for a context or limit that cannot be."""
    context = run.recipe.model.context if context is None else context
    check_context(run, context)
    stride = max(1, context // 2) if stride is None else stride
    begin, end = (0, len(corpus.ids_N)) if split == "all" else split_corpus(run.recipe, corpus).part(split)
    if limit is not None:
        if limit < 1:
            raise UserError(f"--limit is {limit}; it must be at least 1 character")
        end = min(end, begin + limit)
    return ScoringJob(run, run.load_network().to(device), corpus, split, (begin, end), context, stride, device)


def score_job(
    console: Console,
    job: ScoringJob,
    context: int | None = None,
    stride: int | None = None,
    on_scored: Callable[[ScoredCharacters], None] | None = None,
) -> Score:
    """Scores a job with a progress bar; context and stride replace those of the job."""
    what = job.split if context is None else f"{job.split}, context {context}"
    with scoring_bar(console, what, job.bounds[1] - job.bounds[0]) as report:
        return evaluate(
            job.predict, job.corpus.ids_N, job.bounds, context or job.context, stride or job.stride,
            job.corpus.alphabet.size, job.device, on_progress=report, ends_F=job.ends_F, on_scored=on_scored,
        )  # fmt: skip


def check_finite(job: ScoringJob, result: dict[str, Any]) -> None:
    """Raises UserError if a score is not finite, as with very large weights."""
    name = find_non_finite(result)
    if name is not None:
        raise UserError(
            f"the score of {job.run.path} is not finite ({name}): its weights are so large that their predictions on "
            f"this text are not finite; use other weights than {job.run.network_path.name}, or train with a lower "
            "learning rate"
        )


def score_entries(job: ScoringJob, score: Score) -> dict[str, Any]:
    """The entries of `evaluate --json`. Raises UserError if the score is not finite."""
    result = {
        "bits_per_character": score.bits_per_character,
        "characters": score.characters,
        "context": job.context,
        "stride": job.stride,
        "split": job.split,
        "corpus_sha256": job.corpus.sha256,
        "seconds": score.seconds,
        "weights": job.run.weights,
    }
    unicode_characters = job.corpus.alphabet.unicode_characters(job.corpus.ids_N[slice(*job.bounds)])
    if unicode_characters:
        result["bits_per_unicode_character"] = score.bits / unicode_characters
    check_finite(job, result)
    return result


def print_score(console: Console, result: dict[str, Any]) -> None:
    """Prints bits per character, and per Unicode character where that differs, as for UTF-8 text read as bytes."""
    bits, by_unicode = result["bits_per_character"], result.get("bits_per_unicode_character")
    if by_unicode is not None and by_unicode != bits:
        console.print(f"{result['split']}: {by_unicode:.4f} bits per Unicode character", highlight=False)
    scored = format_part(result["characters"]) if result.get("part") else ""
    console.print(f"{result['split']}: {bits:.4f} bits per character{scored}", highlight=False)


def format_part(characters: int) -> str:
    """The end of a line about the score of the first characters of a part of a text."""
    return f" (the first {characters:,} characters)"
