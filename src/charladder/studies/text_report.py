"""The report of a study as plain text for a terminal."""

from collections.abc import Sequence

from charladder.studies.number_format import format_interval, format_mean, format_number, format_p_value
from charladder.studies.report import ArmReport, StudyReport


def to_text(report: StudyReport) -> str:
    """The differences from the baseline, the verdicts, the seeds that an effect needs, gaps and warnings."""
    direction = "higher" if report.metric.higher_is_better else "lower"
    lines = [
        f"{report.metric.name}, {direction} is better; differences from {report.baseline}, paired by seed, with 95% "
        "intervals",
        *_align([_headers(), *(_cells(one, report) for one in report.arms)]),
    ]
    verdicts = [f"{one.name}: {one.verdict}" for one in report.arms if one.name != report.baseline]
    missing = [f"{run.arm}, seed {run.seed}: {run.reason}" for run in report.missing]
    lines += [
        *verdicts,
        *(f"seeds needed: {sentence}" for sentence in report.seeds_needed),
        *(f"no result: {sentence}" for sentence in missing),
        *(f"warning: {sentence}" for sentence in report.warnings),
    ]
    return "\n".join(lines)


def _headers() -> tuple[str, ...]:
    return "arm", "runs", "mean", "difference", "95% interval", "p (Holm)", "smallest detectable"


def _cells(one: ArmReport, report: StudyReport) -> tuple[str, ...]:
    spec = f".{report.metric.decimals}f"
    return (
        one.name,
        f"{len(one.values)} of {one.planned_runs}",
        format_mean(one.score, spec),
        format_mean(one.difference, f"+{spec}"),
        format_interval(one.difference, f"+{spec}"),
        format_p_value(one.p_holm),
        format_number(one.smallest_effect, spec),
    )


def _align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines, with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
