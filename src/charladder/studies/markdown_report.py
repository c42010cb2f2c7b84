"""The report of a plan in Markdown."""

import re
from collections.abc import Iterable

from charladder.studies.formatting import (
    CONTRAST_HEADS,
    CONTRASTED,
    HEADS,
    NOTES,
    SPEED_HEADS,
    TIMED,
    contrast_rows,
    level_text,
    result_rows,
    speed_rows,
)
from charladder.studies.report import StudyReport


def to_markdown(report: StudyReport) -> str:
    """report.md: the same numbers as the page, without its pictures."""
    parts = [f"# {plain(report.plan.name)}"]
    if report.missing:
        parts.append("## Gaps")
        parts.append("\n".join(f"- {plain(gap.arm)}, seed {gap.seed}: {plain(gap.reason)}" for gap in report.missing))
    if report.warnings:
        parts.append("\n".join(f"- Warning: {plain(warning)}" for warning in report.warnings))
    parts.append("\n".join(f"- {name}: {plain(said)}" for name, said in report.provenance))
    parts.append(f"To repeat: `{report.command.replace('`', '')}`")
    parts += ["## Results", table(HEADS, result_rows(report)), NOTES]
    if report.contrasts:
        parts += ["## Contrasts", table(CONTRAST_HEADS, contrast_rows(report)), CONTRASTED]
    parts += ["## Training", table(SPEED_HEADS, speed_rows(report)), level_text(report), TIMED]
    return "\n\n".join(parts) + "\n"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(heads), *rows]
    shown = ["| " + " | ".join(plain(cell) for cell in line) + " |" for line in lines]
    return "\n".join([shown[0], "|" + "---|" * len(list(lines[0])), *shown[1:]])


def plain(text: str) -> str:
    """On one line, with nothing that Markdown or HTML would take for its own."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
