"""The figures of gradient norms by layer: their numbers, the table [norms] that lays them out, and the pictures."""

import json
import math
import re
import sys
import tomllib
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest
from benchmarks.forest import PICTURES
from benchmarks.forest_file import read_forest_file
from benchmarks.norm_tables import NORM_COLUMNS
from benchmarks.norms import to_markdown
from benchmarks.norms_figure import FLOOR, FLOOR_NOTE, NO_RUNS, draw_norms
from benchmarks.norms_file import read_norms_file
from benchmarks.norms_numbers import list_missing, order_values, read_arms
from benchmarks.result_tables import COLUMNS, RESULTS, write_rows

from benchmarks import __main__ as command

LAYOUT = 'rows = "model.norm_placement"\ncolumns = "model.layers"\nlines = "objective.intermediate"\n'
LABELS = '[norms.labels."objective.intermediate"]\ntrue = "with the losses"\nfalse = "without"\n'
ARMS = {  # name: norm placement, layers, intermediate losses
    f"{placement}-{layers}-{'with' if losses else 'without'}": (placement, layers, losses)
    for placement in ("post", "pre")
    for layers in (2, 12)
    for losses in (True, False)
}


def norm_at(arm, seed, when, layer):
    """A norm that depends on all of them."""
    placement, layers, losses = ARMS[arm]
    base = 0.8 if placement == "post" else 0.8 / math.sqrt(layers)
    return base * (1 + 0.1 * seed) * (2 if losses and layer < layers else 1) * (0.5 if when == "late" else 1)


def write_tables(folder, name="study", arms=ARMS, norm=norm_at, seeds=2, text="book", change=None):
    """Tables of the runs of some arms and of their norms. change: of the rows of norms, before they are written."""
    runs, norms = [], []
    for arm in arms:
        placement, layers, losses = ARMS[arm]
        settings = {"model.norm_placement": placement, "objective.intermediate": losses, "training.learning_rate": 0.01}
        common = {"base": "t12", "model.layers": layers, "training.steps": 100}
        for seed in range(seeds):
            about = {"text": text, "arm": arm, "seed": str(seed)}
            dumped = {"settings": json.dumps(settings), "common_settings": json.dumps(common)}
            runs.append(dict.fromkeys(COLUMNS, "") | about | {"stage": "final", **dumped})
            for when, progress in (("first", "0"), ("early", "0.1"), ("late", "0.8")):
                for layer in range(1, layers + 1):
                    value = norm(arm, seed, when, layer)
                    main = value / 2 if losses and layer < layers else value
                    cells = {"when": when, "progress": progress, "layer": str(layer)}
                    norms.append(about | cells | {"norm": f"{value:.6g}", "main_norm": f"{main:.6g}"})
    runs.append(dict.fromkeys(COLUMNS, "") | {"text": text, "stage": "sweep", "arm": "any", "seed": "9"})
    write_rows(folder / f"{name}.csv", runs)
    write_rows(folder / f"{name}-norms.csv", norms if change is None else change(norms), NORM_COLUMNS)


def read(folder, toml=LAYOUT):
    (folder / "study.toml").write_text("[norms]\n" + toml)
    about = read_norms_file(folder, "study")
    return about, read_arms(folder, about)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "norms", *map(str, arguments)])
    return command.main()


def drawn_texts(path):
    return re.findall(r"<!-- (.*?) -->", path.read_text())  # of what is drawn as paths


def table_cells(markdown):
    """The rows of all tables, without the lines below their heads."""
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_means_over_seeds(tmp_path):
    write_tables(tmp_path)
    about, arms = read(tmp_path)
    (arm,) = [arm for arm in arms if arm.name == "post-2-with"]
    assert arm.place == ("post", "2", "true") and arm.layers == 2 and arm.progress == 0, "depth is a common setting"
    assert arm.first.seeds == 2 and arm.first.mean == pytest.approx((1.68, 0.84))
    assert (arm.first.low[0], arm.first.high[0]) == (1.6, 1.76)
    assert arm.first_main is not None and arm.first_main.mean == pytest.approx((0.84, 0.84)) and arm.main_differs
    assert arm.late is not None and arm.late.mean == pytest.approx((0.84, 0.42))
    assert not next(arm for arm in arms if arm.name == "post-2-without").main_differs
    assert order_values(about, arms, 1) == ["2", "12"], "numbers, not texts"
    assert list(list_missing(about, arms)) == []


def test_figure_and_markdown(tmp_path, monkeypatch, capsys):
    write_tables(tmp_path)
    (tmp_path / "study.toml").write_text(f'[norms]\ntitle = "Norms, $5 & <more>"\n{LAYOUT}{LABELS}')
    files = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert run(monkeypatch, "study", "--results", tmp_path, "--output", folder) == 0
        files.append((folder / "study-norms.svg").read_bytes())
    assert files[0] == files[1]
    assert ElementTree.fromstring(files[0]).tag.endswith("svg") and b"<dc:date>" not in files[0]
    texts = drawn_texts(folder / "study-norms.svg")
    assert {"layers = 2", "layers = 12", "norm_placement = pre", "with the losses", "at initialisation"} < set(texts)
    assert "at initialisation, main loss alone (where it differs)" in texts and FLOOR_NOTE not in texts
    output, notes = capsys.readouterr()
    assert notes.count("\n") == 2, "what was drawn, twice, and nothing is missing"
    head, *rows = table_cells(output[: output.index("The last layer's norm")])
    assert head[:4] == ["norm_placement", "layers", "intermediate", "at initialisation: layer 1"]
    assert rows[0] == ["post", "2", "with the losses", "1.68", "1.68", "0.84", "2", "0.84", "0.84", "0.42", "2"]
    assert rows[5][:3] == ["pre", "2", "without"] and rows[6][:3] == ["pre", "12", "with the losses"]
    assert r"\<more\>" in output


def test_ratios_between_depths(tmp_path):
    write_tables(tmp_path)
    markdown = to_markdown(*read(tmp_path))
    head, *rows = table_cells(markdown[markdown.index("Theorem 1") :])
    assert head[3:] == ["L, and of the shallowest", "ratio", "bound, pre", "bound, post", "seeds of the two"]
    expected = f"{math.sqrt(2 / 12):.3f}"
    assert rows == [
        [placement, "12", losses, "12, 2", ratio, expected, "1.000", "2, 2"]
        for placement, ratio in (("post", "1.000"), ("pre", expected))
        for losses in ("false", "true")
    ]
    write_tables(tmp_path, arms=["post-2-with"])
    assert "Theorem 1" not in to_markdown(*read(tmp_path)), "one depth"
    write_tables(tmp_path, arms=["post-2-with", "post-12-without"])
    about, arms = read(tmp_path, 'lines = "objective.intermediate"')
    markdown = to_markdown(about, arms)
    assert "Theorem 1" not in markdown and table_cells(markdown)[0][:2] == ["intermediate", "L"]


def test_zeros_and_small_norms_are_drawn_at_the_floor(tmp_path):
    values = {1: 0.0, 2: FLOOR / 100, 3: FLOOR * 2}
    write_tables(tmp_path, norm=lambda arm, seed, when, layer: values.get(layer, 0.1))
    about, arms = read(tmp_path)
    draw_norms(about, arms, tmp_path / "new.svg")
    assert FLOOR_NOTE in drawn_texts(tmp_path / "new.svg")
    assert "nan" not in (tmp_path / "new.svg").read_text()
    rows = table_cells(to_markdown(about, arms))
    assert rows[1][3:6] == ["0", "0", "1e-10"]
    ratios = [row[4] for row in rows if row[3] == "12, 2"]
    assert ratios == [f"{0.1 / (FLOOR / 100):.3f}"] * 4
    write_tables(tmp_path, norm=lambda *_: 0.0)
    about, arms = read(tmp_path)
    draw_norms(about, arms, tmp_path / "zeros.svg")
    assert [row[4] for row in table_cells(to_markdown(about, arms)) if row[3] == "12, 2"] == ["-"] * 4


def test_missing_arms_and_measurements(tmp_path, monkeypatch, capsys):
    left = [arm for arm in ARMS if arm not in ("pre-12-with", "pre-12-without", "post-2-without")]
    write_tables(
        tmp_path,
        arms=left,
        change=lambda rows: [row for row in rows if (row["arm"], row["when"]) != ("pre-2-with", "late")],
    )
    labels = '[norms.labels."model.layers"]\n2 = "2 layers"\n12 = "12 layers"\n24 = "24 layers"\n'
    (tmp_path / "study.toml").write_text(f"[norms]\n{LAYOUT}{labels}")
    assert run(monkeypatch, "study", "--results", tmp_path, "--output", tmp_path) == 0
    assert NO_RUNS in drawn_texts(tmp_path / "study-norms.svg")
    output, notes = capsys.readouterr()
    assert notes.splitlines()[1:] == [
        "model.layers = 24: no run",
        "model.norm_placement = post, model.layers = 2, objective.intermediate = false: no run",
        "model.norm_placement = pre, model.layers = 12, objective.intermediate = false: no run",
        "model.norm_placement = pre, model.layers = 12, objective.intermediate = true: no run",
        "pre-2-with: no norms of the last third of training",
    ]
    (row,) = [row for row in table_cells(output) if row[:3] == ["pre", "2 layers", "true"]]
    assert row[-5:] == ["2", "-", "-", "-", "0"]


def test_norms_without_those_of_the_main_loss_and_from_a_later_step(tmp_path):
    def change(rows):
        return [row | {"main_norm": "", "progress": "0.05" if row["when"] == "first" else "0.5"} for row in rows]

    write_tables(tmp_path, change=change)
    about, arms = read(tmp_path)
    assert not any(arm.main_differs for arm in arms)
    draw_norms(about, arms, tmp_path / "new.svg")
    later = "first measurement, after up to 0.05 of training"
    assert later in drawn_texts(tmp_path / "new.svg") and f"{later}: layer 1" in to_markdown(about, arms)


def test_no_settings_and_one_layer(tmp_path):
    write_tables(
        tmp_path, arms=["post-2-with"], change=lambda rows: [row for row in rows if row["layer"] == "1"], seeds=1
    )
    about, arms = read(tmp_path, "")
    draw_norms(about, arms, tmp_path / "new.svg")
    assert "study: gradient norms by layer" in drawn_texts(tmp_path / "new.svg")
    assert table_cells(to_markdown(about, arms))[1][:3] == ["post-2-with", "1", "1.6"]


def test_several_tables_and_texts(tmp_path):
    write_tables(tmp_path, "one", [arm for arm in ARMS if "-2-" in arm])
    write_tables(tmp_path, "two", [arm for arm in ARMS if "-12-" in arm])
    _, arms = read(tmp_path, f'{LAYOUT}tables = ["one", "two"]\n')
    assert {arm.name for arm in arms} == set(ARMS)
    write_tables(tmp_path, "two", text="code")
    _, arms = read(tmp_path, f'{LAYOUT}tables = ["one", "two"]\ntext = "code"\narms = ["pre-2-with"]\n')
    assert [arm.name for arm in arms] == ["pre-2-with"]


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("", "study.toml has no table [norms]; add it"),
        ("x = ", "is not valid TOML"),
        ("norms = 3", "norms is 3; it must be a table, [norms]"),
        ('[norms]\nrow = "model.layers"', "the unknown key 'row'; did you mean rows?"),
        ("[norms]\nrows = 3", "rows is 3; it must be text"),
        ("[norms]\ntitle = 3", "title is 3; it must be text"),
        ('[norms]\nrows = "model.layers"\nlines = "model.layers"', "must be different settings"),
        ('[norms]\nrows = "model.layer"', "has no setting 'model.layer'; did you mean model.layers?"),
        ('[norms]\nrows = "model.layers"', "have the same row, column and line, and differ in objective.intermediate"),
        (f"[norms]\n{LAYOUT}labels = 3", "labels is 3; it must have a table for each setting"),
        (f"[norms]\n{LAYOUT}labels.x = {{}}", "labels has 'x', which makes no rows, columns or lines"),
        (f'[norms]\n{LAYOUT}labels."model.layers" = {{ 2 = 3 }}', "the label of model.layers = 2 is 3"),
        (f'[norms]\n{LAYOUT}tables = ["gone"]', "gone-norms.csv has no norms; collect a study"),
        (f"[norms]\n{LAYOUT}tables = []", "tables is []; it must be a list of texts"),
        (f'[norms]\n{LAYOUT}text = "boo"', "no run has the text 'boo'; did you mean book?"),
        (f'[norms]\n{LAYOUT}arms = "pre-2-wit"', "arms has 'pre-2-wit', which has no norms on book; did you mean"),
        (f'[norms]\n{LAYOUT}tables = ["study", "code"]', "the tables have the texts book, code; choose one with"),
        (f'[norms]\n{LAYOUT}tables = ["study", "other"]', "other norms for 'post-2-with', seed 0, layer 1"),
    ],
)
def test_invalid_file(toml, message, tmp_path, monkeypatch, capsys):
    write_tables(tmp_path)
    write_tables(tmp_path, "code", text="code")
    write_tables(tmp_path, "other", norm=lambda *_: 1.0)
    (tmp_path / "study.toml").write_text(toml)
    check_refused(message, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",first,0,1,", ",frist,0,1,", "when is 'frist'; it must be one of first, early, mid, late"),
        (",first,0,1,", ",first,0,x,", "a layer is 'x'; it must be a whole number from 1"),
        (",first,0,1,", ",first,0,0,", "a layer is '0'"),
        (",first,0,1,", ",first,-1,1,", "layer 1, has the progress '-1'"),
        (",1.6,", ",nan,", "'post-2-with', seed 0, layer 1, has the norm 'nan'; it must be a finite number from 0"),
        (",1.6,0.8", ",1.6,-1", "has the main_norm '-1'"),
        ("book,post-2-with,0,first,0,1,1.6,0.8\n", "", "'post-2-with', seed 0, has 1 norms (first), and the arm has 2"),
        (r"book,post-2-with,\d,first.*\n", "", "'post-2-with' has no norms of the first measurement"),
        ("book,post-2-with,", "book,gone,", "'gone' has norms and no run in study.csv; collect the study again"),
        ("text,arm", "arm,text", "is not a table of runs"),
        (r'"\{""model.norm', '"{x', "'post-2-with', seed 0: settings is not a JSON object; collect it again"),
        (r'(post-2-with,0,.*layers"": )2', r"\g<1>3", "the runs of 'post-2-with' have two values of model.layers"),
    ],
)
def test_invalid_tables(old, new, message, tmp_path, monkeypatch, capsys):
    write_tables(tmp_path)
    (tmp_path / "study.toml").write_text(f"[norms]\n{LAYOUT}")
    changed = 0
    for table in (tmp_path / "study-norms.csv", tmp_path / "study.csv"):
        text, count = re.subn(old, new, table.read_text())
        table.write_text(text)
        changed += count
    assert changed
    check_refused(message, tmp_path, monkeypatch, capsys)


def check_refused(message, folder, monkeypatch, capsys):
    assert run(monkeypatch, "study", "--results", folder, "--output", folder) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (folder / "study-norms.svg").exists()


def test_missing_file(tmp_path, monkeypatch, capsys):
    check_refused("study.toml cannot be read: No such file or directory", tmp_path, monkeypatch, capsys)


def test_forest_accepts_the_table(tmp_path):
    (tmp_path / "study.toml").write_text(f'baseline = "a"\n[norms]\n{LAYOUT}')
    assert read_forest_file(tmp_path, "study").baseline == "a"


def list_figures():
    return sorted(path.stem for path in RESULTS.glob("*.toml") if "norms" in tomllib.loads(path.read_text()))


@pytest.mark.parametrize("name", list_figures())
def test_committed_picture_is_what_the_command_draws(name, tmp_path):
    committed = (PICTURES / f"{name}-norms.svg").read_bytes()
    if f"Matplotlib v{matplotlib.__version__},".encode() not in committed:
        pytest.skip("the picture is of another version of matplotlib")
    about = read_norms_file(RESULTS, name)
    draw_norms(about, read_arms(RESULTS, about), tmp_path / "new.svg")
    again = f"; draw it again with python -m benchmarks norms {name}"
    assert (tmp_path / "new.svg").read_bytes() == committed, f"{name}-norms.svg is not what the tables give{again}"
