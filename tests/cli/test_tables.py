"""Tables and panels on a terminal of 40 columns: no number is truncated or split."""

import io
import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType
from rich.text import Text

from charladder.cli.main import main
from charladder.cli.progress import percentage_bar
from charladder.cli.study_progress import StudyProgress
from charladder.cli.tables import AdaptiveTable, join_wrapped
from charladder.cli.training_progress import TrainingProgress
from charladder.studies.directory import list_planned_runs
from charladder.studies.runner import RunFinished
from charladder.training import StepCompleted
from studies.fakes import make_plan

WORD = st.text("abc0123456789.,%", min_size=1, max_size=12)


def render_lines(renderable: RenderableType, width: int) -> list[str]:
    """Renders to lines, none of which may be wider than the terminal."""
    console = Console(width=width, file=io.StringIO())
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    return lines


def find_numbers(lines: list[str]) -> list[str]:
    return re.findall(r"[\d.,:%]*\d[\d.,:%]*", "\n".join(lines))


@given(cells=st.lists(st.lists(WORD, min_size=4, max_size=4), min_size=1, max_size=4), width=st.integers(24, 100))
def test_cells_are_complete_at_any_width(cells, width):
    table = AdaptiveTable("name", "a long heading", "bits", "b")
    for row in cells:
        table.add_row(*row)
    words = [word.rstrip(",") for line in render_lines(table, width) for word in line.split()]
    for row in cells:
        for cell in row:
            assert cell.rstrip(",") in words


@given(parts=st.lists(WORD, max_size=6), width=st.integers(12, 60))
def test_join_wrapped_keeps_the_order_and_fills_lines(parts, width):
    lines = join_wrapped([Text(part) for part in parts], ", ", width).plain.split("\n")
    assert " ".join(line for line in lines if line) == ", ".join(parts)
    for line, after in itertools.pairwise(lines):
        assert len(line) <= width + 1  # 1: the comma after a part that fills a line
        assert len(f"{line} {after.split(', ')[0]}") > width - 1


def test_table_on_a_wide_terminal_and_lines_on_a_narrow_one():
    table = AdaptiveTable("context", "bits/char", "accuracy", title="by context")
    table.add_row("32", "6.5920", "30.5%")
    assert render_lines(table, 80) == ["by context", "context  bits/char  accuracy", "32          6.5920     30.5%"]
    assert render_lines(table, 27) == [
        "by context",
        "context 32",
        "  bits/char 6.5920,        ",
        "  accuracy 30.5%           ",
    ]
    broken = AdaptiveTable("term", "characters ahead")
    broken.add_row("main", "1")
    assert [line.rstrip() for line in render_lines(broken, 16)] == [
        "      characters",
        "term       ahead",
        "main           1",
    ]


def test_panel_of_training_progress():
    trainer: Any = SimpleNamespace(
        progress=0.45, settings=SimpleNamespace(minutes=3), windows=SimpleNamespace(passes=1.25),
        network=SimpleNamespace(settings=SimpleNamespace(layers=64)),
    )  # fmt: skip
    display, facts = TrainingProgress(Console(width=40, file=io.StringIO()), trainer), Any
    term = {"bits": 7.1234, "weight": 0.12345, "share": 0.5678}
    terms = {f"layer{layer}.target{k}": term for layer in range(60, 65) for k in (1, 12)} | {"main": term}
    for step in (12345, 12346):
        line = {"step": step, "characters": 1_234_567 * (step - 12344), "seconds": 10.0 * step - 123440}
        display.show(StepCompleted(line | {"terms": terms}, facts))
    result = render_lines(display.panel(), 40)
    assert {"45%", "7.123", "123,457", "12,346", "1.25", "2:40", "0.568"} <= set(find_numbers(result))
    assert find_numbers(result).count("7.123") == 1 + len(terms)
    assert "layer64.target12" in "\n".join(result)
    assert sum(line.count("■") + line.count("·") for line in result) == 64


def test_table_of_study_progress():
    plan = make_plan(seeds=5)
    table = StudyProgress(Console(width=40, file=io.StringIO()), plan, 1)
    for number, run in enumerate(list_planned_runs(plan, Path("nowhere"))):
        table.show(RunFinished(run, 1.2345 + number, 3.0))
    result = find_numbers(render_lines(table._render_table(), 40))
    assert {f"{1.2345 + number:.4f}" for number in range(10)} <= {number.rstrip(",") for number in result}


def test_tables_of_corpora_and_inspect(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["corpora"]) == 0
    out = capsys.readouterr().out
    assert out.count("100,000,000") == 2 and "download 31 MB" in out
    assert main(["inspect", "t64"]) == 0
    out = capsys.readouterr().out
    assert main(["inspect", "t64", "--json"]) == 0
    parameters = json.loads(capsys.readouterr().out)["parameters"]
    assert all(f"{count:,}" in out for count in parameters.values()) and "…" not in out


def test_tables_of_evaluate(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("A ladder has layers, and each of them says what it sees. " * 100)
    shape = "--layers", "2", "--width", "16", "--context", "64", "--batch", "2", "--steps", "3"
    assert main(["train", "text", *shape, "--run", "run"]) == 0
    details = "--by-context", "--by-layer", "--by-position", "--copying", "--probes", "4"
    capsys.readouterr()
    assert main(["evaluate", "run", *details, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    exact = [row["bits_per_character"] for name in ("by_context", "by_layer", "by_position") for row in result[name]]
    copying = [bits for row in result["copying"] for bits in row["bits_L"][:3]]
    for width in ("40", "200"):
        monkeypatch.setenv("COLUMNS", width)
        assert main(["evaluate", "run", *details]) == 0
        out = capsys.readouterr().out
        printed_numbers = {number.rstrip(",") for number in find_numbers(out.splitlines())}
        assert {f"{bits:.4f}" for bits in exact} | {f"{bits:.1f}" for bits in copying} <= printed_numbers
        assert "…" not in out and all(len(line) <= int(width) for line in out.splitlines())


def test_names_in_a_progress_bar_are_neither_markup_nor_format(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")  # rich draws no bar with TERM=dumb
    console = Console(width=100, file=io.StringIO(), force_terminal=True)
    with percentage_bar(console, "scoring {x} [/b] [bold]\x1b[2J", 1.0) as update:
        update(0.5, "3 bits")
    assert isinstance(console.file, io.StringIO)
    assert "scoring {x} [/b] [bold]\\x1b[2J" in console.file.getvalue()
