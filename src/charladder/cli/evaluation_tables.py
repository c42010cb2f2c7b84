"""A closer look at where the bits go, for `evaluate`: each gives its key in the JSON, what stands there, a table."""

import sys
from dataclasses import asdict
from typing import Any

from rich.console import Console
from torch import nn

from charladder.cli.scoring import ScoringJob, score, scoring_bar
from charladder.cli.tables import Rows
from charladder.errors import UserError
from charladder.evaluation.by_context import by_context, by_position, contexts_of
from charladder.evaluation.copying_probe import probe_copying
from charladder.evaluation.last_learned import LastLearned, TrainingMoment, last_learned
from charladder.evaluation.layers import evaluate_layers
from charladder.generation.speculative.heads_file import FittedTo, load_heads

Look = tuple[str, list[dict[str, Any]], Rows]


def contexts(console: Console, held: ScoringJob, stride: int | None) -> Look:
    """The paper's Table 2."""
    parts = by_context(
        lambda context, own, each: score(console, held, context, own, each), contexts_of(held.context), stride
    )
    table = Rows("context", "stride", "bits/char", "accuracy", "seconds", title="by context")
    for part in parts:
        table.add(
            str(part.at), str(part.stride), f"{part.bits_per_character:.4f}", f"{part.accuracy:.1%}",
            f"{part.seconds:.1f}",
        )  # fmt: skip
    return "by_context", [renamed(asdict(part), "context") for part in parts], table


def positions(console: Console, held: ScoringJob) -> Look:
    parts = by_position(lambda context, own, each: score(console, held, context, own, each), held.context)
    table = Rows("up to", "bits/char", "accuracy", "characters", title="by characters before it in the window")
    for part in parts:
        table.add(str(part.at), f"{part.bits_per_character:.4f}", f"{part.accuracy:.1%}", f"{part.characters:,}")
    found = [renamed(asdict(part), "up_to") for part in parts]
    return "by_position", [{k: v for k, v in row.items() if k not in ("seconds", "stride")} for row in found], table


def layers(console: Console, held: ScoringJob) -> Look:
    objective = held.run.objective().to(held.device).eval()
    fitted, about = fitted_heads(held)
    with scoring_bar(console, "by layer", held.bounds[1] - held.bounds[0]) as report:
        scores = evaluate_layers(
            held.network, objective, held.corpus.ids_N, held.bounds, held.context, held.stride, held.ends_F, report,
            fitted=fitted,
        )  # fmt: skip
    learned = last_learned(held.run)
    shared = held.run.recipe.objective.intermediate_heads == "shared"
    names = "term", "characters ahead", "bits/char", "last learned at", "last in the loss at"
    table = Rows(*names[: 5 if shared else 4], title=f"by layer{', through shared heads' if shared else ''}")
    found = []
    for one in scores:
        if about is not None and one.term.endswith(".refit"):
            last = {"step": about.steps, "progress": None, "characters": about.characters}
            contributed, at = None, f"refit step {about.steps:,}"
        else:
            when = learned.get(one.term, LastLearned(None, None))
            last, contributed, at = as_dict(when.head), when.contributed, in_words(when.head)
        more = [in_words(contributed)] if shared else []
        table.add(one.term, str(one.target), f"{one.bits_per_character:.4f}", at, *more)
        found.append(
            {
                "term": one.term, "layer": one.layer, "target": one.target, "characters": one.characters,
                "bits_per_character": one.bits_per_character, "last_learned": last,
                "last_contributed": as_dict(contributed),
            }
        )  # fmt: skip
    return "by_layer", found, table


def fitted_heads(held: ScoringJob) -> tuple[dict[int, nn.Module], FittedTo | None]:
    """The heads that `refit` has fitted to intermediate layers, and when they last learned; none where it has not run,
    or has for another network, which a note then says."""
    try:
        found = load_heads(held.run)
    except UserError as error:
        print(f"note: {error}; the heads of refit are not scored", file=sys.stderr)
        found = None
    if found is None:
        return {}, None
    return {int(layer): head.to(held.device) for layer, head in found[0].early_exit.items()}, found[1]


def in_words(moment: TrainingMoment | None) -> str:
    return "never" if moment is None else f"step {moment.step:,} ({moment.progress:.0%})"


def as_dict(moment: TrainingMoment | None) -> dict[str, Any] | None:
    return None if moment is None else asdict(moment)


def copies(held: ScoringJob, probes: int, seed: int) -> Look:
    corpus = held.corpus
    found = probe_copying(
        held.predict, corpus.alphabet, corpus.ids_N, held.bounds, held.context, probes, seed, held.device
    )
    table = Rows(
        "characters on", "mentioned", "never mentioned", "saved a letter", "median rank", "and without",
        title=f"{probes} invented names that come again: bits of letters 1, 2, 3 and 4 to 8",
    )  # fmt: skip
    for one in found:
        table.add(
            str(one.distance), in_short(one.bits_L), in_short(one.control_bits_L),
            f"{one.saved:.2f} ± {one.saved_within:.2f}", in_short(one.ranks_L, 0), in_short(one.control_ranks_L, 0),
        )  # fmt: skip
    return "copying", [one.as_dict() for one in found], table


def in_short(by_letter: list[float], places: int = 1) -> str:
    rest = sum(by_letter[3:]) / len(by_letter[3:])
    return "  ".join(f"{value:.{places}f}" for value in (*by_letter[:3], rest))


def renamed(row: dict[str, Any], at: str) -> dict[str, Any]:
    return {at if name == "at" else name: value for name, value in row.items()}
