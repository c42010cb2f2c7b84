"""Writes the report of a plan: as HTML, Markdown and CSV."""

from pathlib import Path

from charladder.ablation import csv_tables, markdown, page
from charladder.ablation.plan import read_plan
from charladder.ablation.report import build_report
from charladder.ablation.results import collect
from charladder.atomic import write_text


def write_report(folder: Path) -> list[Path]:
    """Reads plan.toml and all runs in `folder`. Writes report.html, report.md, report.csv, summary.csv and norms.csv
    there."""
    plan = read_plan(folder / "plan.toml")
    report = build_report(plan, collect(folder, plan))
    texts = {
        "report.html": page.html(report),
        "report.md": markdown.text(report),
        "report.csv": csv_tables.runs(report),
        "summary.csv": csv_tables.summary(report),
        "norms.csv": csv_tables.norms(report),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]
