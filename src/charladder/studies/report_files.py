"""The files of the report of a study of recipes: HTML, Markdown and CSV."""

from pathlib import Path

from charladder.atomic_io import write_text
from charladder.studies import csv_tables, html_report, markdown_report
from charladder.studies.plan_file import read_plan
from charladder.studies.recipe_report import build_report
from charladder.studies.results import collect_results


def write_report(folder: Path) -> list[Path]:
    """Reads plan.toml and all runs in `folder`, writes the report there, and returns its paths."""
    plan = read_plan(folder / "plan.toml")
    report = build_report(plan, collect_results(folder, plan))
    texts = {
        "report.html": html_report.to_html(report),
        "report.md": markdown_report.to_markdown(report),
        "report.csv": csv_tables.runs_csv(report),
        "summary.csv": csv_tables.summary_csv(report),
        "norms.csv": csv_tables.gradient_norms_csv(report),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]
