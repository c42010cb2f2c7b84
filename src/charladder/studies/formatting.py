"""The numbers of a report as text: the same in HTML and in Markdown."""

from charladder.studies.report import ArmReport, StudyReport
from charladder.studies.statistics import Difference, Estimate

NOTHING = "-"
HEADS = (
    "arm", "runs", "bits per character", "95% interval", "difference", "its 95% interval", "p", "p (Holm)", "verdict",
)  # fmt: skip
SPEED_HEADS = (
    "arm", "train bits", "seconds", "characters/s", "characters to the level", "seconds to the level",
    "difference at equal seconds", "its 95% interval", "p (Holm)",
)  # fmt: skip
CONTRAST_HEADS = (
    "contrast", "plus", "minus", "seeds", "bits", "its 95% interval", "p", "training bits", "its 95% interval", "p",
)  # fmt: skip
CONTRASTED = (
    "A contrast is the sum of the arms under `plus` less that of those under `minus`, paired by seed; its p-values are "
    "not corrected for their number."
)
TIMED = (
    "At equal seconds: of the stretch that is scored on the way, at the second at which the baseline was scored last, "
    "or the arm itself if that is earlier. It is harsh on a slower arm whose learning rate has not come down by then; "
    "a budget in minutes is the fair comparison."
)
NOTES = (
    "Bits per character are of the whole valid part, scored once at the end of a run; fewer are better. Intervals are "
    "95% intervals of the mean by Student's t; differences and p-values are paired by seed (two-sided t-test), and "
    "Holm's correction is over the arms that could be tested. A claim needs at least 5 seeds and a corrected p below "
    "0.05."
)


def result_rows(report: StudyReport) -> list[tuple[str, ...]]:
    """The cells of the table of results, an arm a row."""
    return [
        (
            one.arm.name,
            f"{len(one.runs)} of {len(report.plan.seeds)}",
            f"{one.bits.mean:.4f}" if one.bits else NOTHING,
            interval(one.bits),
            f"{one.difference.mean:+.4f}" if one.difference else NOTHING,
            span(one.difference.low, one.difference.high, "+.4f") if one.difference else NOTHING,
            p_text(one.difference.p if one.difference else None),
            p_text(one.p_holm),
            one.verdict,
        )
        for one in report.arms
    ]


def speed_rows(report: StudyReport) -> list[tuple[str, ...]]:
    """The cells of the table of training and speed, an arm a row."""
    return [
        (
            one.arm.name,
            f"{one.train_bits.mean:.4f}" if one.train_bits else NOTHING,
            f"{one.seconds.mean:,.1f}" if one.seconds else NOTHING,
            f"{one.characters_per_second.mean:,.0f}" if one.characters_per_second else NOTHING,
            to_level(one, one.level_reached.characters, ",.0f"),
            to_level(one, one.level_reached.seconds, ",.1f"),
            f"{one.difference_at_equal_seconds.mean:+.4f}" if one.difference_at_equal_seconds else NOTHING,
            span(one.difference_at_equal_seconds.low, one.difference_at_equal_seconds.high, "+.4f")
            if one.difference_at_equal_seconds
            else NOTHING,
            p_text(one.p_holm_at_equal_seconds),
        )
        for one in report.arms
    ]


def contrast_rows(report: StudyReport) -> list[tuple[str, ...]]:
    """The cells of the table of contrasts, one a row."""
    rows = []
    for one in report.contrasts:
        seeds = len(one.bits.seeds) if one.bits else 0
        sides = (", ".join(one.contrast.plus), ", ".join(one.contrast.minus))
        rows.append((one.contrast.name, *sides, str(seeds), *tested(one.bits), *tested(one.train_bits)))
    return rows


def tested(found: Difference | None) -> tuple[str, str, str]:
    """A difference with its interval and p."""
    if found is None:
        return NOTHING, NOTHING, NOTHING
    return f"{found.mean:+.4f}", span(found.low, found.high, "+.4f"), p_text(found.p)


def level_text(report: StudyReport) -> str:
    if report.level is None:
        return "No run of the baseline was scored on the way, so there is no level to reach."
    return (
        f"The level is {report.level:.4f} bits per character: what the baseline has, in the mean, where the stretch of "
        "the valid part that is scored on the way was scored last. It is another text than the whole part, so the two "
        "numbers differ. When a run crosses it is read between two measured points of that run, and never beyond its "
        "last one; a mean is given where all runs of an arm reach it."
    )


def to_level(one: ArmReport, mean: float | None, form: str) -> str:
    if mean is not None:
        return f"{mean:{form}}"
    return (
        f"reached by {one.level_reached.reached_by} of {one.level_reached.runs}" if one.level_reached.runs else NOTHING
    )


def interval(found: Estimate | None) -> str:
    return span(found.low, found.high, ".4f") if found else NOTHING


def span(low: float | None, high: float | None, form: str) -> str:
    return NOTHING if low is None or high is None else f"{low:{form}} to {high:{form}}"


def p_text(p: float | None) -> str:
    return NOTHING if p is None else "< 0.0001" if p < 0.0001 else f"{p:.4f}"
