"""Writes the report of a plan: as HTML, Markdown and CSV."""

from pathlib import Path

from charladder.atomic_io import write_text
from charladder.studies import csv_tables, html_report, markdown_report
from charladder.studies.plan import read_plan
from charladder.studies.report import build_report
from charladder.studies.results import collect


def write_report(folder: Path) -> list[Path]:
    """Reads plan.toml and all runs in `folder`. Writes report.html, report.md, report.csv, summary.csv and norms.csv
    there."""
    plan = read_plan(folder / "plan.toml")
    report = build_report(plan, collect(folder, plan))
    texts = {
        "report.html": html_report.html(report),
        "report.md": markdown_report.text(report),
        "report.csv": csv_tables.runs(report),
        "summary.csv": csv_tables.summary(report),
        "norms.csv": csv_tables.norms(report),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]
