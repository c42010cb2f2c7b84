"""The report of a study in Markdown: report.md, and the text of report.html."""

import re
from collections.abc import Iterable, Sequence

from charladder.studies.number_format import NO_VALUE, format_interval, format_mean, format_number, format_p_value
from charladder.studies.report import LevelReached, StudyReport
from charladder.studies.statistics import Difference

TRAINING_HEADERS = (
    "arm", "train bits", "seconds", "characters/s", "characters to the level", "seconds to the level",
    "difference at equal seconds", "its 95% interval", "p (Holm)",
)  # fmt: skip
CONTRAST_HEADERS = (
    "contrast", "plus", "minus", "seeds", "bits", "its 95% interval", "p", "training bits", "its 95% interval", "p",
)  # fmt: skip
RESULTS_NOTE = (
    "Intervals are 95% intervals of the mean by Student's t. Differences and p-values are paired by seed (two-sided "
    "t-test), and Holm's correction is over the arms that could be tested. A claim needs at least 5 seeds and a "
    "corrected p below 0.05. A difference as large as the smallest detectable one is shown with a probability of 80%; "
    "it is computed from the spread over these seeds."
)
CONTRASTS_NOTE = (
    "A contrast is the sum of the arms under `plus` minus the sum of those under `minus`, paired by seed. Its p-values "
    "are not corrected for the number of contrasts."
)
EQUAL_SECONDS_NOTE = (
    "The difference at equal seconds compares validations, interpolated to the second of the baseline's last "
    "validation, or of the arm's if that is earlier. A slower arm is then scored before its learning rate has decayed; "
    "a budget in minutes compares arms fairly."
)


def to_markdown(report: StudyReport) -> str:
    """report.md: the whole report without its figures."""
    parts = [f"# {escape_markdown(report.name)}", verdicts(report), notices(report), tables(report)]
    parts += ["## What was run", provenance(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def verdicts(report: StudyReport) -> str:
    """The question, the rule, and the verdict on every arm but the baseline."""
    found = [f"{one.name}: {one.verdict}" for one in report.arms if one.name != report.baseline]
    return "## Verdict\n\n" + _list(filter(None, [report.question, report.rule, *found]))


def notices(report: StudyReport) -> str:
    """Missing runs and warnings; empty where there are none."""
    missing = [f"{run.arm}, seed {run.seed}: {run.reason}" for run in report.missing]
    sections = {"Gaps": missing, "Warnings": report.warnings}
    return "\n\n".join(f"## {heading}\n\n{_list(items)}" for heading, items in sections.items() if items)


def tables(report: StudyReport) -> str:
    """Results, contrasts and training, each with its note."""
    parts = ["## Results", _results_table(report), f"{escape_markdown(report.score_note)} {RESULTS_NOTE}"]
    if report.seeds_needed:
        parts += ["## Seeds needed", _list(report.seeds_needed)]
    if report.contrasts:
        parts += ["## Contrasts", _table(CONTRAST_HEADERS, _contrast_rows(report)), CONTRASTS_NOTE]
    if report.has_training:
        parts += ["## Training", _table(TRAINING_HEADERS, _training_rows(report))]
        parts.append(f"{_level_note(report)} {EQUAL_SECONDS_NOTE}")
    return "\n\n".join(parts)


def provenance(report: StudyReport) -> str:
    """Plan, data and machine, and the command that repeats the study, as a code block."""
    command = report.command.replace("\n", "\n    ")
    return _list(f"{name}: {text}" for name, text in report.provenance) + f"\n\nTo repeat:\n\n    {command}"


def escape_markdown(text: str) -> str:
    """Text on one line, with the characters escaped that Markdown or HTML would interpret."""
    text = re.sub(r"([\\`*_\[\]<>|#&~])", r"\\\1", " ".join(text.split()))
    return re.sub(r"^(\d*)([-+.)])(?=\s)", r"\1\\\2", text)  # the start of a list


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {escape_markdown(item)}" for item in items)


def markdown_table(rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already; the first row is its head."""
    head, *others = rows
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *others)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def _table(headers: tuple[str, ...], rows: Iterable[Iterable[str]]) -> str:
    return markdown_table([[escape_markdown(cell) for cell in cells] for cells in (headers, *rows)])


def _results_table(report: StudyReport) -> str:
    """Seconds are among the results where there is no table of training."""
    seconds = () if report.has_training else ("seconds a run",)
    headers = (
        "arm", "runs", report.metric.name, "95% interval", "difference", "its 95% interval", "p", "p (Holm)",
        "smallest detectable", *seconds, "verdict",
    )  # fmt: skip
    spec = f".{report.metric.decimals}f"
    rows = (
        (
            one.name,
            f"{len(one.values)} of {one.planned_runs}",
            format_mean(one.score, spec),
            format_interval(one.score, spec),
            *_difference_cells(one.difference, spec),
            format_p_value(one.p_holm),
            format_number(one.smallest_effect, spec),
            *(format_mean(one.seconds, ",.1f") for _ in seconds),
            one.verdict,
        )
        for one in report.arms
    )
    return _table(headers, rows)


def _training_rows(report: StudyReport) -> Iterable[tuple[str, ...]]:
    for one in report.arms:
        training = one.training
        if training is not None:
            yield (
                one.name,
                format_mean(training.train_bits, ".4f"),
                format_mean(one.seconds, ",.1f"),
                format_mean(training.characters_per_second, ",.0f"),
                _until_level(training.level_reached, training.level_reached.characters, ",.0f"),
                _until_level(training.level_reached, training.level_reached.seconds, ",.1f"),
                *_difference_cells(training.difference_at_equal_seconds)[:2],
                format_p_value(training.p_holm_at_equal_seconds),
            )


def _contrast_rows(report: StudyReport) -> Iterable[tuple[str, ...]]:
    for one in report.contrasts:
        contrast, seeds = one.contrast, len(one.bits.seeds) if one.bits else 0
        arms = ", ".join(contrast.plus), ", ".join(contrast.minus)
        yield contrast.name, *arms, str(seeds), *_difference_cells(one.bits), *_difference_cells(one.train_bits)


def _difference_cells(difference: Difference | None, spec: str = ".4f") -> tuple[str, str, str]:
    """The mean, its interval and the p-value."""
    p = difference.p if difference else None
    return format_mean(difference, f"+{spec}"), format_interval(difference, f"+{spec}"), format_p_value(p)


def _until_level(reached: LevelReached, mean: float | None, spec: str) -> str:
    """The mean characters or seconds until the level is reached, or how many runs reach it."""
    if mean is not None:
        return f"{mean:{spec}}"
    return f"reached by {reached.reached_by} of {reached.runs}" if reached.runs else NO_VALUE


def _level_note(report: StudyReport) -> str:
    if report.level is None:
        return "No run of the baseline was validated during training, so there is no level to reach."
    return (
        f"The level is {report.level:.4f} bits per character: the mean of the baseline at its last validation during "
        "training. Validations score the first characters of the valid part, so the level differs from the bits of the "
        "whole part. The point at which a run reaches the level is interpolated between two validations and never "
        "extrapolated; a mean is given where all runs of an arm reach the level."
    )
