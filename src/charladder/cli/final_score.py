"""The score at the end of `charladder train`: of which stretch of the valid part, how long it takes, what is recorded.

By default the stretch has a tenth of the characters that the run was trained on, at least the stretch of a validation
and at most the whole valid part. Scoring a character takes less time than training on it, so this takes less than a
tenth of the budget, and for a budget in steps or characters the stretch is the same on every machine.
"""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from charladder.cli.scoring import as_result, open_scoring_job, score
from charladder.cli.training_outcome import TrainingOutcome
from charladder.errors import UserError
from charladder.evaluation import Score
from charladder.run import Run, split_of
from charladder.text import Corpus
from charladder.training import Trainer
from charladder.training.metrics import Metrics, read_metrics

SHARE = 0.1  # of the budget


def parse_score(text: str | None) -> str | int | None:
    """The value of --score: `whole`, `none`, a number of characters, or None where it is not given.
    Raises UserError."""
    if text in (None, "whole", "none"):
        return text
    if text.isdecimal() and text.isascii() and len(text) < 16 and int(text) >= 1:
        return int(text)
    raise UserError(f"--score is {text!r}; it must be whole, none, or a number of characters of at least 1")


def characters_to_score(trainer: Trainer, wanted: str | int | None, valid: int, validated: Score) -> int:
    """How many characters of the valid part, from its beginning, are scored; `valid` is the length of the part.

    `validated` is the last validation. Under a budget in minutes its speed is a further limit.
    """
    if wanted == "whole":
        return valid
    if isinstance(wanted, int):
        return min(wanted, valid)
    settings = trainer.settings
    most = int(SHARE * trainer.clock.characters)
    if settings.minutes and validated.seconds > 0:
        most = min(most, int(SHARE * 60 * settings.minutes * validated.characters / validated.seconds))
    return min(valid, max(most, validated.characters))


def final_score(
    console: Console, run: Run, corpus: Corpus, trainer: Trainer, wanted: str | int | None, followed: TrainingOutcome
) -> dict[str, Any] | None:
    """Scores the last weights, says before it starts how long that takes, and adds the score to metrics.jsonl.

    Returns the keys of `evaluate --json`, and `part`, whether the valid part has more characters than were scored;
    None without a valid part and for --score none. The stretch of the last validation is not scored twice.
    """
    (begin, end), validated = split_of(run.recipe, corpus).valid, followed.validated
    if validated is None or wanted == "none":
        return None
    characters = characters_to_score(trainer, wanted, end - begin, validated)
    held = open_scoring_job(run, corpus, "valid", limit=characters, device=trainer.device)
    if characters == validated.characters:
        result = as_result(held, validated)
    else:
        announce(characters, end - begin, characters * validated.seconds / validated.characters)
        result = as_result(held, score(console, held))
    result["part"] = characters < end - begin
    record(run.path / "metrics.jsonl", trainer.clock.step, trainer.clock.characters, result, followed.early)
    return result


def announce(characters: int, valid: int, seconds: float) -> None:
    """One line on standard error, whether or not it is a terminal."""
    which = "all" if characters == valid else f"the first {characters:,} of"
    print(
        f"scoring {which} {valid:,} characters of the valid part, about {duration(seconds)} "
        "(--score whole, none or N for another stretch)",
        file=sys.stderr,
        flush=True,
    )


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def record(path: Path, step: int, trained: int, result: dict[str, Any], early: bool) -> None:
    """Adds the score to metrics.jsonl, once for a step and a stretch, however often a finished run is resumed.

    The line has `part` where it is not of the whole valid part, and then `final`, which tells it from a validation; and
    `ended_early` where training ended before its budget was spent.
    """
    line = {name: value for name, value in result.items() if name != "part"}
    if result["part"]:
        line |= {"part": True, "final": True}
    if early:
        line["ended_early"] = True
    if not any(
        old["step"] == step and "split" in old and stretch_of(old) == stretch_of(line) for old in read_metrics(path)
    ):
        metrics = Metrics(path, step)
        metrics.write({"step": step, "trained_characters": trained, **line})
        metrics.close()


def stretch_of(line: dict[str, Any]) -> tuple[bool, bool, int | None]:
    """What an evaluation line of metrics.jsonl scored: the whole valid part, a validation's stretch, or a final one."""
    part, final = bool(line.get("part")), bool(line.get("final"))
    return part, final, line.get("characters") if final else None
