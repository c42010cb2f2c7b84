"""Draws the README's figure, what auxiliary losses gave, from the tables of docs/results.md.

python docs/pictures/finding.py            # writes finding.svg beside this file
python docs/pictures/finding.py FOLDER     # or into a folder
"""

import re
import sys
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

HERE = Path(__file__).parent
SECTIONS = {  # title: heading of the section. Columns 2 and 3 of its first table are differences and intervals.
    "500,000 characters, read eight times": "## 4. Many passes over little text",
    "819,200 characters, read once": "## 2. The modern recipe, at equal steps",
}
STYLE = {"svg.hashsalt": "charladder", "font.family": "DejaVu Sans", "savefig.facecolor": "white", "font.size": 9}
BLUE, GREY = "#1f6f8b", "#6f7780"
Row = tuple[str, float, float, float, bool]  # arm, difference, low, high, whether a difference is shown


def read_table(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without the line of column names and the one below it."""
    section = text.split(f"\n{heading}\n")[1]
    lines = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip(" *").replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


def read_rows(text: str, heading: str) -> list[Row]:
    """The arms of a section, without its first row, the baseline.

    The arms that were read once were tested under two rules, so the p-values of the table "Correction over both plans"
    apply to them. It lists those below 0.12.
    """
    corrected = {row[0]: row[-1] for row in read_table(text, "### Correction over both plans")}
    rows = []
    for arm, _, difference, interval, *p_values in read_table(text, heading)[1:]:
        low, high = sorted(map(float, interval.split(" to ")))
        once = heading == SECTIONS["819,200 characters, read once"]
        name = f"{arm.removeprefix('intermediate layers, ')}, equal steps"
        p_value = corrected.get(name, "1") if once else p_values[0]
        rows.append((arm, float(difference), low, high, float(p_value.strip("< ")) < 0.05))
    return rows


def draw(text: str) -> Figure:
    """text: of docs/results.md."""
    panels = {title: read_rows(text, heading) for title, heading in SECTIONS.items()}
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    heights = [len(rows) + 1 for rows in panels.values()]
    axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights)
    for panel, (title, rows) in zip(axes, panels.items(), strict=True):
        for y, (_, middle, low, high, shown) in enumerate(rows):
            colour = BLUE if shown else GREY
            panel.plot([low, high], [y, y], color=colour, linewidth=2)
            panel.plot(middle, y, "o", color=colour, markerfacecolor=colour if shown else "white")
        panel.axvline(0, color="#22313f", linewidth=0.8)
        panel.set_title(title, loc="left", fontsize=10, weight="bold")
        panel.set(yticks=range(len(rows)), yticklabels=[row[0] for row in rows], ylim=(len(rows) - 0.4, -0.6))
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
    axes[-1].set_xlabel(
        "bits per character minus those of the main loss alone\n"
        "(mean and 95% interval, five seeds; filled: a difference is shown)"
    )
    return figure


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    with matplotlib.rc_context(STYLE):
        figure = draw((HERE.parent / "results.md").read_text())
        figure.savefig(folder / "finding.svg", metadata={"Date": None})
