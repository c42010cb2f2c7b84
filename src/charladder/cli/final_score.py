"""The score at the end of `charladder train`, on the first characters of the valid part.

By default it scores a tenth of the number of characters that the run was trained on, at least as many as a validation
and at most the whole valid part. Scoring a character takes less time than training on it, so this takes less than a
tenth of the budget. For a budget in steps or characters the number is the same on every machine.
"""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from charladder.cli.scoring import open_scoring_job, score_entries, score_job
from charladder.cli.training_outcome import TrainingOutcome
from charladder.errors import UserError
from charladder.evaluation import Score
from charladder.run import Run, split_corpus
from charladder.text import Corpus
from charladder.training import Trainer
from charladder.training.metrics import Metrics, read_metrics

_MAX_BUDGET_SHARE = 0.1  # of the characters read, and of a budget in minutes


def parse_score(text: str | None) -> str | int | None:
    """The value of --score: `whole`, `none`, a number of characters, or None if it is not given. Raises UserError."""
    if text in (None, "whole", "none"):
        return text
    if text.isdecimal() and text.isascii() and len(text) < 16 and int(text) >= 1:
        return int(text)
    raise UserError(f"--score is {text!r}; it must be whole, none, or a number of characters of at least 1")


def characters_to_score(
    trainer: Trainer, score_option: str | int | None, valid_characters: int, last_validation: Score
) -> int:
    """The number of characters to score, of the `valid_characters` of the valid part.

    Under a budget in minutes, the speed of the last validation is a further limit.
    """
    if score_option == "whole":
        return valid_characters
    if isinstance(score_option, int):
        return min(score_option, valid_characters)
    settings = trainer.settings
    most = int(_MAX_BUDGET_SHARE * trainer.counters.characters)
    if settings.minutes and last_validation.seconds > 0:
        most = min(
            most, int(_MAX_BUDGET_SHARE * 60 * settings.minutes * last_validation.characters / last_validation.seconds)
        )
    return min(valid_characters, max(most, last_validation.characters))


def score_after_training(
    console: Console,
    run: Run,
    corpus: Corpus,
    trainer: Trainer,
    score_option: str | int | None,
    outcome: TrainingOutcome,
) -> dict[str, Any] | None:
    """Scores the last weights, after printing an estimate of the time, and appends the score to metrics.jsonl.

    Returns the entries of `evaluate --json` and `part`, whether the valid part has more characters than were scored;
    None without a valid part and for --score none. Reuses the last validation if it scored the same characters.
    """
    (begin, end), validated = split_corpus(run.recipe, corpus).valid, outcome.last_validation
    if validated is None or score_option == "none":
        return None
    characters = characters_to_score(trainer, score_option, end - begin, validated)
    held = open_scoring_job(run, corpus, "valid", limit=characters, device=trainer.device)
    if characters == validated.characters:
        result = score_entries(held, validated)
    else:
        _announce_scoring(characters, end - begin, characters * validated.seconds / validated.characters)
        result = score_entries(held, score_job(console, held))
    result["part"] = characters < end - begin
    _append_score(
        run.path / "metrics.jsonl", trainer.counters.step, trainer.counters.characters, result, outcome.ended_early
    )
    return result


def _announce_scoring(characters: int, valid_characters: int, seconds: float) -> None:
    """Prints one line on standard error."""
    which = "all" if characters == valid_characters else f"the first {characters:,} of"
    print(
        f"scoring {which} {valid_characters:,} characters of the valid part, about {_format_duration(seconds)} "
        "(--score whole, none, or N for another number)",
        file=sys.stderr,
        flush=True,
    )


def _format_duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _append_score(path: Path, step: int, trained_characters: int, result: dict[str, Any], ended_early: bool) -> None:
    """Appends the score to metrics.jsonl, unless the file has one for this step and these characters.

    The line has `part` if the score is not of the whole valid part, and then `final`, which distinguishes it from a
    validation; and `ended_early` if training ended before its budget was spent.
    """
    line = {name: value for name, value in result.items() if name != "part"}
    if result["part"]:
        line |= {"part": True, "final": True}
    if ended_early:
        line["ended_early"] = True
    if not any(
        old["step"] == step and "split" in old and _scored_part(old) == _scored_part(line) for old in read_metrics(path)
    ):
        metrics = Metrics(path, step)
        metrics.write({"step": step, "trained_characters": trained_characters, **line})
        metrics.close()


def _scored_part(line: dict[str, Any]) -> tuple[bool, bool, int | None]:
    """What a line of metrics.jsonl scored: the whole valid part, the part of a validation, or a final part."""
    part, final = bool(line.get("part")), bool(line.get("final"))
    return part, final, line.get("characters") if final else None
