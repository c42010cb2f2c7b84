"""charladder explain"""

import json

import pytest

from charladder.cli.main import main


def explain_output(capsys, *arguments: str) -> str:
    assert main(["explain", *arguments]) == 0
    return capsys.readouterr().out


def test_json_has_a_row_for_each_prediction(capsys):
    result = json.loads(
        explain_output(capsys, "ABCDEF", "--layers", "3", "--targets", "2", "--progress", "0.2", "--json")
    )
    rows = result["rows"]
    assert len(rows) == 3 * (5 + 4)
    assert rows[0] == {
        "loss": "layer1.target1", "layer": 1, "given": "A", "offset": 1, "target": "B", "weight": 0.0, "active": False,
    }  # fmt: skip
    assert {"loss": "layer2.target1", "layer": 2, "given": "AB", "offset": 1, "target": "C", "weight": 1.0,
            "active": True} in rows  # fmt: skip


def test_table_and_total(capsys):
    out = explain_output(capsys, "ABCDEF", "--layers", "3", "--targets", "2", "--progress", "0.2")
    assert "total = 1 layer2.target1 + 0.5 layer2.target2 + 1 main + 0.5 layer3.target2" in out
    assert "18 of them, and 9 of terms that are inactive now (weight 0)." in out
    row = next(line.split() for line in out.splitlines() if '"ABC"' in line and "main" in line)
    assert row == ["main", "3", '"ABC"', '"D"', "1", "1"]


def test_weights_of_presets_and_recipes(capsys):
    out = explain_output(capsys, "AB", "--layers", "4", "--targets", "1", "--intermediate", "deed")
    assert "total = 0.25 layer1.target1 + 0.25 layer2.target1 + 0.25 layer3.target1 + 1.25 main" in out
    rows = json.loads(explain_output(capsys, "AB", "--recipe", "ladder", "--progress", "0.1", "--json"))["rows"]
    assert [row["weight"] for row in rows] == [0.0, 0.3, 0.3, 0.3, 0.3, 1.0]  # 6 layers, weight 0.3, the first inactive
    rows = json.loads(explain_output(capsys, "ABC", "--layers", "1", "--ahead", "blockwise", "--step", "3", "--json"))[
        "rows"
    ]
    assert sorted({row["active"] for row in rows}) == [False, True]


def test_control_characters_are_escaped(capsys):
    out = explain_output(capsys, 'a"\\\x9b\u202e\n[b]', "--layers", "1", "--targets", "1")
    assert '"a\\"\\\\\\u009b\\u202e\\n["' in out
    assert "\x9b" not in out and "\u202e" not in out


def test_narrow_terminal_gets_lines_instead_of_a_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    out = explain_output(capsys, "ABC", "--layers", "2", "--targets", "1", "--progress", "0.3")
    assert 'layer1.target1: "A" -> "B", inactive' in out and 'main: "AB" -> "C", weight 1' in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["A"], "TEXT has 1 characters; give 2 to 200"),
        (["A" * 201], "TEXT has 201 characters"),
        ([], "TEXT"),
        (["AB", "--progress", "1.5"], "--progress is 1.5; it must be between 0"),
        (["AB", "--progress", "nan"], "--progress is nan"),
        (["AB", "--layers", "0"], "--layers is 0; it must be 1 to 1024"),
        (["AB", "--layers", "x"], "--layers is 'x'; it must be a whole number"),
        (["AB", "--targets", "0"], "targets is 0; it must be at least 1"),
        (["AB", "--step", "-1"], "--step is -1; it must be at least 0"),
        (["A" * 200, "--layers", "100", "--targets", "2"], "make more than 20,000 predictions; give a shorter TEXT"),
        (["AB", "--intermediate", "clam"], "--intermediate: there is no preset called 'clam'; did you mean calm?"),
        (["AB", "--ahead", "calm"], "--ahead: there is no preset called 'calm'"),
        (["AB", "--recipe", "t64", "--intermediate", "calm"], "--recipe sets the weights"),
        (["AB", "--recipe", "nosuch"], "there is no recipe called 'nosuch'"),
        (["AB", "--intermediat", "calm"], "no option --intermediat; did you mean --intermediate?"),
    ],
)
def test_user_errors(arguments, message, capsys):
    assert main(["explain", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
