"""The report of a plan as one page of HTML: it asks for nothing outside, and needs no script."""

from collections.abc import Iterable
from html import escape

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
from charladder.studies.report_figures import forest_plot, learning_curves, norms_by_depth

STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --paper: #fff; --line: #c9d1d9; --mark: #fff3d6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e8ed; --paper: #14191f; --line: #3b4652; --mark: #4a3a12; } }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1, h2 { line-height: 1.2; }
.note { background: var(--mark); border-radius: .4rem; padding: .2rem 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; overflow-wrap: normal; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: left; vertical-align: top; }
td { font-variant-numeric: tabular-nums; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 1rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { flex: 1 1 20rem; margin: 0; max-width: 34rem; }
figure.lead { max-width: 46rem; }
summary { cursor: pointer; font-weight: 600; }
svg { width: 100%; height: auto; }
"""


def to_html(report: StudyReport) -> str:
    """report.html. Every text that comes from files is escaped."""
    name = escape(report.plan.name)
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{name}</h1>",
    ]
    parts.append(f"<h2>Verdict</h2>{listed(verdict_lines(report))}")
    parts.append(
        picture(
            forest_plot(report),
            "Difference of each arm to the baseline, paired by seed, with its 95% interval; blue where the "
            "difference is claimed (at least 5 seeds, corrected p below 0.05), grey elsewhere. A diamond is one seed.",
            "No arm can be compared with the baseline yet.",
            "lead",
        )
    )
    if report.missing:
        gaps = (f"{gap.arm}, seed {gap.seed}: {gap.reason}" for gap in report.missing)
        parts.append(f'<section class="note"><h2>Gaps</h2>{listed(gaps)}</section>')
    if report.warnings:
        parts.append(f'<section class="note"><h2>Warnings</h2>{listed(report.warnings)}</section>')
    parts += ["<h2>Results</h2>", table("Results by arm", HEADS, result_rows(report)), f"<p>{escape(NOTES)}</p>"]
    if report.contrasts:
        parts += ["<h2>Contrasts</h2>", table("Contrasts", CONTRAST_HEADS, contrast_rows(report))]
        parts.append(f"<p>{escape(CONTRASTED)}</p>")
    parts += ["<h2>Training</h2>", table("Training by arm", SPEED_HEADS, speed_rows(report))]
    parts.append(f"<p>{escape(level_text(report))} {escape(TIMED)}</p>")
    parts.append('<h2>Pictures</h2>\n<div class="pictures">')
    parts += [
        picture(
            learning_curves(report, "valid"),
            "Learning curves on a stretch of the valid part: means over runs (their number in brackets), with 95% "
            "intervals of the mean, where all runs of an arm have points on both sides.",
            "No run was scored on the way.",
        ),
        picture(
            learning_curves(report, "train"),
            "Learning curves on training batches: means of neighbouring steps, then over runs, with 95% intervals.",
            "No finished run.",
        ),
        picture(
            norms_by_depth(report),
            "Norm of the gradient of all terms by layer, in the first, second and last third of training. It is "
            "measured while auxiliary terms contribute; an arm or a third without such measurements is absent.",
            "No gradient norms were measured: that is done while auxiliary terms contribute.",
        ),
    ]
    parts.append("</div>\n<details><summary>What was run</summary>\n<dl>")
    parts += [f"<dt>{escape(name)}</dt><dd>{escape(said)}</dd>" for name, said in report.provenance]
    parts.append(f"<dt>to repeat</dt><dd><code>{escape(report.command)}</code></dd></dl></details>")
    parts.append("</main>\n</body>\n</html>\n")
    return "\n".join(parts)


def verdict_lines(report: StudyReport) -> list[str]:
    """The question and its rule, and what was found for each arm, a sentence each."""
    found = [f"{one.arm.name}: {one.verdict}" for one in report.arms if one.arm.name != report.plan.baseline]
    return [text for text in (report.plan.question, report.plan.rule) if text] + found


def picture(drawn: str, caption: str, without: str, kind: str = "small") -> str:
    """A picture with its caption, or `without` in its place where there is none; `kind` is its class in the page."""
    return f'<figure class="{kind}">{drawn}<figcaption>{escape(caption if drawn else without)}</figcaption></figure>'


def listed(texts: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def table(caption: str, heads: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    """A table whose first column names its rows; it scrolls in itself on narrow screens."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>\n'
        for first, *cells in rows
    )
    return (
        f'<div class="wide" role="region" aria-label="{escape(caption)}" tabindex="0"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
    )
