"""The report of a study as one HTML page: its Markdown and its figures, without scripts or requests."""

from collections.abc import Callable
from html import escape
from typing import Any

from charladder.errors import UserError
from charladder.studies.markdown_report import notices, provenance, tables, verdicts
from charladder.studies.report import StudyReport
from charladder.studies.report_figures import forest_plot, gradient_norms_by_layer, learning_curves

_CSS = """
:root { color-scheme: light dark; --ink: #1c2733; --paper: #fff; --line: #c9d1d9; --mark: #fff3d6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e8ed; --paper: #14191f; --line: #3b4652; --mark: #4a3a12; } }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1, h2 { line-height: 1.2; }
details, .note { margin-top: 1rem; }
.note { background: var(--mark); border-radius: .4rem; padding: .2rem 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; overflow-wrap: normal; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: left; vertical-align: top; }
td { font-variant-numeric: tabular-nums; }
pre { white-space: pre-wrap; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { flex: 1 1 20rem; margin: 0; max-width: 34rem; }
figure.lead { max-width: 46rem; }
summary { cursor: pointer; font-weight: 600; }
svg { width: 100%; height: auto; }
"""


def to_html(report: StudyReport) -> str:
    """report.html. Raises UserError where markdown-it-py or matplotlib is missing."""
    render, name = _markdown_renderer(), escape(report.name)
    notes, pictures = notices(report), _pictures(report)
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{name}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n<h1>{name}</h1>",
        render(verdicts(report)),
        _figure(
            forest_plot(report),
            "Difference of each arm from the baseline, paired by seed, with its 95% interval: blue where the "
            "difference is claimed (at least 5 seeds, corrected p below 0.05), grey elsewhere. A diamond is one seed.",
            "No arm can be compared with the baseline yet.",
            "lead",
        ),
        f'<section class="note">\n{render(notes)}</section>' if notes else "",
        render(tables(report)),
        f'<h2>Pictures</h2>\n<div class="pictures">\n{pictures}</div>' if pictures else "",
        f"<details><summary>What was run</summary>\n{render(provenance(report))}</details>",
        "</main>\n</body>\n</html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _pictures(report: StudyReport) -> str:
    figures = [_figure(learning_curves(one), one.caption, one.caption_if_empty) for one in report.curves]
    if report.has_training:
        norms = _figure(
            gradient_norms_by_layer(report),
            "Norm of the gradient of all terms by layer, in the first, second and last third of training. It is "
            "measured while auxiliary terms contribute; arms and thirds without measurements are left out.",
            "No gradient norms were measured: they are measured while auxiliary terms contribute.",
        )
        figures.append(norms)
    return "".join(f"{figure}\n" for figure in figures)


def _figure(svg: str, caption: str, caption_if_empty: str, css_class: str = "small") -> str:
    return (
        f'<figure class="{css_class}">{svg}<figcaption>{escape(caption if svg else caption_if_empty)}</figcaption>'
        "</figure>"
    )


def _markdown_renderer() -> Callable[[str], str]:
    """Returns the function from Markdown to HTML. Raw HTML in the Markdown is escaped; a table scrolls by itself where
    the page is narrow, and its first column holds the headers of the rows."""
    try:
        from markdown_it import MarkdownIt
    except ImportError:
        raise UserError('report.html needs markdown-it-py: pip install "charladder[study]"') from None
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")

    def render(text: str) -> str:
        tokens, heading = markdown.parse(text), ""
        for i, token in enumerate(tokens):
            if token.type == "heading_open":
                heading = tokens[i + 1].content
            elif token.type == "table_open":
                token.meta["name"] = heading
            elif token.type == "th_open":
                token.attrSet("scope", "col")
            elif token.type == "tr_open" and tokens[i + 1].type == "td_open":
                tokens[i + 1].tag = tokens[i + 3].tag = "th"
                tokens[i + 1].attrSet("scope", "row")
        return markdown.renderer.render(tokens, markdown.options, {})

    def open_table(self: Any, tokens: Any, i: int, options: Any, env: Any) -> str:
        name = escape(tokens[i].meta["name"])
        return f'<div class="wide" role="region" aria-label="{name}" tabindex="0"><table>\n'

    markdown.add_render_rule("table_open", open_table)
    markdown.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return render
