"""The report of a study as plain text for a terminal."""

from collections.abc import Sequence

from charladder.studies.report import ArmReport, StudyReport
from charladder.studies.statistics import Difference, Estimate

_NO_VALUE = "-"


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
        _mean(one.score, spec),
        _mean(one.difference, f"+{spec}"),
        _interval(one.difference, f"+{spec}"),
        _NO_VALUE if one.p_holm is None else f"{one.p_holm:.4f}",
        _NO_VALUE if one.smallest_effect is None else f"{one.smallest_effect:{spec}}",
    )


def _align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines, with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _mean(number: Estimate | Difference | None, spec: str) -> str:
    return _NO_VALUE if number is None else f"{number.mean:{spec}}"


def _interval(number: Difference | None, spec: str) -> str:
    if number is None or number.low is None or number.high is None:
        return _NO_VALUE
    return f"{number.low:{spec}} to {number.high:{spec}}"
