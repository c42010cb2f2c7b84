"""The bits of every run in a table, by arm."""

import pytest
from benchmarks.result_tables import COLUMNS, write_rows

from benchmarks import arms
from charladder.errors import UserError


def row(arm: str, seed: int, bits: float, stage: str = "final", text: str = "prose", rate: str = "0.002"):
    values = {"text": text, "stage": stage, "arm": arm, "seed": str(seed), "bits_per_character": repr(bits)}
    return dict.fromkeys(COLUMNS, "") | values | {"learning_rate": rate}


@pytest.fixture
def results(tmp_path):
    rows = [row("a|b", 0, 2.5), row("a|b", 2, 3.5), row("c", 0, 1.25, rate="1e-05"), row("c", 100, 9.0, "sweep")]
    write_rows(tmp_path / "table.csv", rows)
    return tmp_path


def printed(capsys, *arguments: str) -> list[list[str]]:
    assert arms.main(list(arguments)) == 0
    return [[cell.strip() for cell in line.split(" | ")] for line in capsys.readouterr().out.splitlines()]


def test_a_line_for_each_arm(results, capsys):
    lines = printed(capsys, "table", "--results", str(results), "--below", "3")
    assert lines[0] == ["| arm", "learning rate", "seed 0", "seed 2", "mean", "below 3 |"]
    assert lines[2][1:] == ["0.002", "2.5000", "3.5000", "3.0000", "1 of 2 |"]
    assert lines[3] == ["| c", "1e-05", "1.2500", "-", "1.2500", "1 of 1 |"]
    assert lines[2][0] == "| a\\|b"


def test_trials_and_several_texts(results, capsys):
    lines = printed(capsys, "table", "--results", str(results), "--sweep")
    assert lines[2:] == [["| c", "0.002", "9.0000", "9.0000 |"]]
    write_rows(results / "two.csv", [row("a", 0, 2.0), row("a", 0, 3.0, text="code")])
    lines = printed(capsys, "two", "--results", str(results))
    assert [line[:2] for line in lines[2:]] == [["| prose", "a"], ["| code", "a"]]


def test_a_table_without_such_runs(results):
    with pytest.raises(UserError, match="has no runs of the stage final"):
        arms.main(["other", "--results", str(results)])
