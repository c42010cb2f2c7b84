"""The tables of runs: what `collect` keeps of a study, and what it refuses."""

import csv
import errno
import json
import os
import sys

import benchmarks.collect
import pytest
import tomli_w
from benchmarks.result_tables import COLUMNS

from benchmarks import __main__ as command
from charladder.studies.plan_file import plan_to_tables
from studies.fakes import ENVIRONMENT, make_plan, make_run

TEXT = {"name": "/data/book.txt", "sha256": "ab" * 32}
RECORDED = ENVIRONMENT | {"data": TEXT, "git": "c0ffee", "git_clean": True}


def write_plan(folder, arm_fields=None, **changes):
    tables = plan_to_tables(make_plan(**changes))
    folder.mkdir(parents=True)
    (folder / "plan.toml").write_text(tomli_w.dumps(tables | ({"arms": arm_fields} if arm_fields else {})))


@pytest.fixture
def study(tmp_path):
    """Two arms and two seeds, one run unfinished; and a sweep of one run."""
    folder = tmp_path / "study"
    write_plan(folder, seeds=2)
    for arm, seed, bits in [("none", 0, 2.1), ("none", 1, 2.2), ("layers", 0, 1 / 3)]:
        make_run(folder, arm, seed, bits, environment=RECORDED)
    make_run(folder, "layers", 1, 2.0, finished=False)
    rates = {f"none rate={rate}": {"training.learning_rate": rate} for rate in (0.01, 0.02)}
    write_plan(folder / "sweep", seeds=1, baseline="none rate=0.01", arm_fields=rates)
    make_run(folder / "sweep", "none rate=0.01", 0, 2.3)
    return folder


def collect(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "collect", *map(str, arguments)])
    return command.main()


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_row_for_each_finished_run(study, tmp_path, monkeypatch, capsys):
    assert collect(monkeypatch, study, "--results", tmp_path / "results") == 0
    rows = read(tmp_path / "results" / "ladders.csv")
    assert [(row["text"], row["stage"], row["arm"], row["seed"]) for row in rows] == [
        ("book", "final", "layers", "0"), ("book", "final", "none", "0"), ("book", "final", "none", "1"),
        ("book.txt", "sweep", "none rate=0.01", "0"),
    ]  # fmt: skip
    first = rows[0]
    assert float(first["bits_per_character"]) == 1 / 3, "with full precision"
    assert first["test_bits_per_character"] == "" and first["text_sha256"] == "ab" * 32
    counts = "scored_characters", "trained_characters", "steps", "threads"
    assert [int(first[name]) for name in counts] == [5000, 4000, 40, 2]
    assert float(first["seconds"]) == 4 and first["processor"] == "Abacus 12" and first["gpu"] == ""
    assert json.loads(first["settings"]) == {"objective.intermediate": True}
    assert json.loads(first["common_settings"]) == {"base": "ladder", "model.layers": 2, "training.steps": 40}
    assert json.loads(first["versions"]) == {"charladder": "0.1.0", "python": "3.12.0", "torch": "2.9.0"}
    assert (first["commit"], first["clean"]) == ("c0ffee", "yes")
    assert (rows[3]["commit"], rows[3]["clean"]) == ("", ""), "unknown"
    assert json.loads(rows[3]["settings"]) == {"training.learning_rate": 0.01}
    assert "layers, seed 1: unfinished" in capsys.readouterr().err


def test_norms_at_the_start_and_by_third(study, tmp_path, monkeypatch):
    collect(monkeypatch, study, "--results", tmp_path)
    rows = read(tmp_path / "ladders-norms.csv")
    assert {row["arm"] for row in rows} == {"layers", "none"}, "none of the sweep"
    run = [row for row in rows if (row["arm"], row["seed"]) == ("none", "1")]
    assert [(row["when"], row["layer"]) for row in run] == [
        (when, layer) for when in ("first", "early", "mid", "late") for layer in "12"
    ]
    assert [float(row["norm"]) for row in run[:2]] == [0.1, 0.2]
    assert [float(row["main_norm"]) for row in run[:2]] == [0.05, 0.1]
    assert float(run[0]["progress"]) == 3 / 40, "the first of these runs is of step 4"
    assert float(run[2]["progress"]) == pytest.approx((3 + 7 + 11) / 3 / 40, rel=1e-3)


def test_more_runs_are_added_and_the_others_left_alone(study, tmp_path, monkeypatch, capsys):
    collect(monkeypatch, study, "--results", tmp_path)
    table, norms = tmp_path / "ladders.csv", tmp_path / "ladders-norms.csv"
    before, norms_before = table.read_text(), norms.read_text()
    collect(monkeypatch, study, "--results", tmp_path)
    assert table.read_text() == before and norms.read_text() == norms_before
    assert capsys.readouterr().out.endswith("0 rows added or completed, 4 in all\n")
    make_run(study, "zero", 0, 1.0)  # of no arm of the plan
    (study / "layers-seed1").rename(tmp_path / "moved")
    make_run(study, "layers", 1, 2.0, environment=RECORDED)
    collect(monkeypatch, study, "--results", tmp_path)
    assert [row["seed"] for row in read(table) if row["arm"] == "layers"] == ["0", "1"]
    assert set(before.splitlines()) < set(table.read_text().splitlines())
    assert len(norms.read_text().splitlines()) == len(norms_before.splitlines()) + 8


def test_other_text_and_other_table(study, tmp_path, monkeypatch):
    for name in ("250 KB", "500 KB"):
        assert collect(monkeypatch, study, "--name", "sizes", "--text", name, "--results", tmp_path) == 0
    rows = read(tmp_path / "sizes.csv")
    assert [row["text"] for row in rows] == ["250 KB"] * 4 + ["500 KB"] * 4


def test_other_bits_are_refused(study, tmp_path, monkeypatch, capsys):
    collect(monkeypatch, study, "--results", tmp_path)
    table = tmp_path / "ladders.csv"
    changed = table.read_text().replace(",2.2,", ",2.25,")
    table.write_text(changed)
    assert collect(monkeypatch, study, "--results", tmp_path) == 2
    error = capsys.readouterr().err
    assert "has a final run of 'none', seed 1, on book with bits_per_character 2.25, and the study has 2.2" in error
    assert table.read_text() == changed


def test_score_of_the_test_part(study, tmp_path, monkeypatch, capsys):
    collect(monkeypatch, study, "--results", tmp_path)
    score = study / "none-seed0" / "test.json"
    score.write_text('{"split": "valid", "bits_per_character": 2.0}')
    assert collect(monkeypatch, study, "--results", tmp_path) == 2
    assert "it scored the part 'valid'" in capsys.readouterr().err
    score.write_text('{"split": "test", "bits_per_character": 2.125}')
    assert collect(monkeypatch, study, "--results", tmp_path) == 0
    assert "1 rows added or completed, 4 in all" in capsys.readouterr().out
    assert [row["test_bits_per_character"] for row in read(tmp_path / "ladders.csv")] == ["", "2.125", "", ""]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not a table of runs"),
        ("arm,seed\n", "is not a table of runs"),
        ("HEADER\nbook,1\n", "row 2, has 2 cells"),
        ("HEADER\nbook,a,final,none,x,2.0" + "," * 14 + "\n", "the seed is 'x'"),
        ("HEADER\nbook,a,final,none,-1,2.0" + "," * 14 + "\n", "the seed is '-1'"),
        ("HEADER\nbook,a,final,none," + "9" * 5000 + ",2.0" + "," * 14 + "\n", "the seed is '9"),
        ("HEADER\nbook,a,Final,none,0,2.0" + "," * 14 + "\n", "the stage is 'Final'; it must be final or sweep"),
        (
            "HEADER\n" + ("book,a,final,none,0,2.0" + "," * 14 + "\n") * 2,
            "has the final run of 'none', seed 0, on book twice; delete one row",
        ),
        (
            "HEADER\n" + "".join(f"book,{sha},final,{sha},0,2.0{',' * 14}\n" for sha in "ab"),
            "has runs of a text 'book' that is not the one of other runs",
        ),
        ("HEADER\nbook,a,final,none,0,two" + "," * 14 + "\n", "bits_per_character is 'two'"),
        ('HEADER\n"book', "is not CSV"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_damaged_table_is_refused(content, message, study, tmp_path, monkeypatch, capsys):
    table = tmp_path / "ladders.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.replace("HEADER", ",".join(COLUMNS)).encode())
    before = table.read_bytes()
    assert collect(monkeypatch, study, "--results", tmp_path) == 2
    error = capsys.readouterr().err
    assert message in error and str(table) in error and "Traceback" not in error
    assert table.read_bytes() == before


@pytest.mark.parametrize("change", [lambda text: "\ufeff" + text.replace("\n", "\r\n"), lambda text: text + "\n\n"])
def test_table_that_an_editor_has_saved(change, study, tmp_path, monkeypatch, capsys):
    collect(monkeypatch, study, "--results", tmp_path)
    table = tmp_path / "ladders.csv"
    table.write_text(change(table.read_text()), encoding="utf-8", newline="")
    capsys.readouterr()
    assert collect(monkeypatch, study, "--results", tmp_path) == 0
    assert "0 rows added or completed, 4 in all" in capsys.readouterr().out


def test_another_text_of_the_same_name_is_refused(study, tmp_path, monkeypatch, capsys):
    collect(monkeypatch, study, "--results", tmp_path / "results")
    table = tmp_path / "results" / "ladders.csv"
    before = table.read_bytes()
    other = tmp_path / "other"
    write_plan(other, seeds=1, arms=("more", "none"))
    make_run(other, "more", 0, 2.0, environment=RECORDED | {"data": TEXT | {"sha256": "cd" * 32}})
    assert collect(monkeypatch, other, "--results", tmp_path / "results") == 2
    assert "has runs of a text 'book' that is not the one of other runs" in capsys.readouterr().err
    assert table.read_bytes() == before
    assert collect(monkeypatch, other, "--text", "other book", "--results", tmp_path / "results") == 0
    assert collect(monkeypatch, other, "--text", "", "--results", tmp_path / "results") == 2
    assert "--text is empty" in capsys.readouterr().err


def test_plan_whose_own_name_ends_in_sweep(tmp_path, monkeypatch):
    write_plan(tmp_path / "study", name="rates-sweep", seeds=1)
    make_run(tmp_path / "study", "none", 0, 2.0)
    assert collect(monkeypatch, tmp_path / "study", "--results", tmp_path) == 0
    assert (tmp_path / "rates-sweep.csv").exists()


def test_a_full_disk_is_one_sentence(study, tmp_path, monkeypatch, capsys):
    def write_rows(path, *rest):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(benchmarks.collect, "write_rows", write_rows)
    assert collect(monkeypatch, study, "--results", tmp_path) == 2
    error = capsys.readouterr().err
    assert "ladders-norms.csv: No space left on device" in error and error.count("\n") == 3, "with two notes"


@pytest.mark.parametrize("name", ["../x", "a/b", ""])
def test_name_that_is_no_file_name(name, study, tmp_path, monkeypatch, capsys):
    assert collect(monkeypatch, study, "--name", name, "--results", tmp_path / "results") == 2
    assert "cannot name a table" in capsys.readouterr().err and not (tmp_path / "results").exists()


def test_sweep_whose_study_has_not_begun(study, tmp_path, monkeypatch):
    (study / "plan.toml").unlink()
    plan = study / "sweep" / "plan.toml"
    plan.write_text(plan.read_text().replace('"ladders"', '"ladders-sweep"'))
    assert collect(monkeypatch, study, "--results", tmp_path / "results") == 0
    assert [row["stage"] for row in read(tmp_path / "results" / "ladders.csv")] == ["sweep"]
    assert not (tmp_path / "results" / "ladders-norms.csv").exists()


def test_folder_without_a_study(tmp_path, monkeypatch, capsys):
    assert collect(monkeypatch, tmp_path, "--results", tmp_path) == 2
    assert "plan.toml cannot be read" in capsys.readouterr().err
