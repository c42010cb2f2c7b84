"""Scoring a run with a progress bar: what `evaluate` and the end of `train` share."""

import sys
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from charladder.errors import BadInput
from charladder.evaluation import evaluate
from charladder.model.settings import LARGEST
from charladder.run import Run, file_ends, split_of
from charladder.text import Corpus


def check_context(run: Run, context: int) -> None:
    """Raises BadInput for a context that the network cannot have; warns of one it was not trained at."""
    settings = run.recipe.model
    if context < 2:
        raise BadInput(f"--context {context} is too small; it must be at least 2 characters")
    if context > LARGEST["context"]:
        raise BadInput(f"--context {context} is too large; it must be at most {LARGEST['context']:,} characters")
    if context > settings.context and settings.positions != "rotary":
        raise BadInput(
            f"--context {context} is longer than the position tables of {run.path}, which end at {settings.context}"
        )
    if context > settings.context:
        warning = f"warning: {run.path} was trained at context {settings.context}, not {context}"
        print(warning, file=sys.stderr)


def score_run(
    console: Console,
    run: Run,
    corpus: Corpus,
    part: str,
    context: int | None = None,
    stride: int | None = None,
    limit: int | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Scores `part` (valid, test or all) of a corpus; returns the keys of `evaluate --json`."""
    settings = run.recipe.model
    context = settings.context if context is None else context
    check_context(run, context)
    stride = max(1, context // 2) if stride is None else stride
    begin, end = (0, len(corpus.ids_N)) if part == "all" else split_of(run.recipe, corpus).part(part)
    if limit is not None:
        if limit < 1:
            raise BadInput(f"--limit is {limit}; it must be at least 1 character")
        end = min(end, begin + limit)
    network = run.network().to(device)
    with Progress(
        TextColumn(f"scoring {part}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[bits]} bits/char"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task("", total=end - begin, bits="-")
        score = evaluate(
            lambda tokens, keep: network(tokens, keep=keep).logits_BTV,
            corpus.ids_N,
            (begin, end),
            context,
            stride,
            corpus.alphabet.size,
            device,
            report=lambda characters, bits: bar.update(task, completed=characters, bits=f"{bits / characters:.3f}"),
            ends_F=file_ends(run.recipe, corpus),
        )
    result = {
        "bits_per_character": score.bits_per_character,
        "characters": score.characters,
        "context": context,
        "stride": stride,
        "split": part,
        "corpus_sha256": corpus.sha256,
        "seconds": score.seconds,
    }
    unicode_characters = corpus.alphabet.unicode_characters(corpus.ids_N[begin:end])
    if unicode_characters:
        result["bits_per_unicode_character"] = score.bits / unicode_characters
    return result
