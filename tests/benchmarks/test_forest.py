"""The forest plots of docs/results.md: their numbers, the files that describe them, and the committed pictures."""

import re
import sys
import tomllib
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest
from benchmarks.forest import PICTURES
from benchmarks.forest_figure import NOT_SHOWN, POOLED, SHOWN, draw_forest
from benchmarks.forest_file import read_forest_file
from benchmarks.forest_numbers import Line, Pooled, compute_groups, read_bits
from benchmarks.result_tables import COLUMNS, RESULTS, write_rows

from benchmarks import __main__ as command
from charladder.studies.meta_analysis import combine_studies
from charladder.studies.power import smallest_detectable_effect
from charladder.studies.statistics import TOO_FEW_SEEDS, paired_difference
from test_plotting import DEFICIENCIES, min_distance

BITS = {  # by text and arm, seeds 0 to 4
    "book": {
        "none": [2.0, 2.1, 2.2, 2.05, 2.15],
        "layers": [1.9, 2.01, 2.09, 1.96, 2.04],
        "targets": [2.01, 2.09, 2.21, 2.04, 2.15],
    },
    "code": {"none": [1.5, 1.6, 1.7, 1.55, 1.65], "layers": [1.47, 1.58, 1.66, 1.53, 1.61]},
}
SWEEP_BITS = 9.0  # not of the figure


def write_table(folder, name="plot", bits=BITS):
    rows = [
        dict.fromkeys(COLUMNS, "")
        | {"text": text, "stage": stage, "arm": arm, "seed": str(seed), "bits_per_character": repr(value)}
        for text, by_arm in bits.items()
        for arm, several in by_arm.items()
        for stage, values in (("final", several), ("sweep", [SWEEP_BITS]))
        for seed, value in enumerate(values)
    ]
    write_rows(folder / f"{name}.csv", rows)


def compute(folder, toml):
    (folder / "plot.toml").write_text(toml)
    about = read_forest_file(folder, "plot")
    return compute_groups(about, read_bits(folder, about.tables))


def difference(text, arm):
    return paired_difference(dict(enumerate(BITS[text][arm])), dict(enumerate(BITS[text]["none"])))


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "forest", *map(str, arguments)])
    return command.main()


def test_lines_by_text(tmp_path):
    write_table(tmp_path)
    groups = compute(tmp_path, 'baseline = "none"\neffect = 0.03\n')
    assert [(one.title, [line.label for line in one.lines]) for one in groups] == [
        ("book", ["layers", "targets"]), ("code", ["layers"]),
    ]  # fmt: skip
    layers, targets = groups[0].lines
    (code,) = groups[1].lines
    assert layers.difference == difference("book", "layers") and code.difference == difference("code", "layers")
    p = [line.difference.p for line in (layers, code, targets)]
    assert p == sorted(p), "as Holm's correction takes them"
    assert [line.p_holm for line in (layers, code, targets)] == [3 * p[0], 2 * p[1], p[2]]
    expected = smallest_detectable_effect(targets.difference.deviation, 5, level=0.05 / 3)
    assert targets.smallest == expected
    assert layers.verdict.startswith("better than none by 0.100 (") and layers.is_shown
    assert targets.verdict == "no difference shown, and the interval excludes an effect of 0.03"


def test_holm_over_each_group(tmp_path):
    write_table(tmp_path)
    groups = compute(tmp_path, 'baseline = "none"\nholm = "group"\n')
    assert groups[1].lines[0].p_holm == groups[1].lines[0].difference.p
    assert groups[0].lines[0].p_holm == 2 * groups[0].lines[0].difference.p


def test_mean_over_texts(tmp_path):
    write_table(tmp_path)
    found = [difference(text, "layers") for text in BITS]
    expected = combine_studies([one.mean for one in found], [one.deviation**2 / 5 for one in found])
    groups = compute(tmp_path, 'baseline = "none"\nmeta_analysis = true\n')
    assert [one.title for one in groups] == ["book", "code", "all texts"]
    (pooled,) = groups[2].lines
    assert pooled == Pooled("layers", expected), "targets have one text"
    groups = compute(tmp_path, 'baseline = "none"\nmeta_analysis = true\ngroup_by = "comparison"\n')
    assert [(one.title, [line.label for line in one.lines]) for one in groups] == [
        ("layers", ["book", "code", "all texts"]), ("targets", ["book"]),
    ]  # fmt: skip


def test_a_text_with_one_seed_is_not_in_the_mean(tmp_path):
    third = {"none": [3.0], "layers": [3.5]}
    write_table(tmp_path, bits=BITS | {"poem": third})
    groups = compute(tmp_path, 'baseline = "none"\narms = ["layers"]\nmeta_analysis = true\ngroup_by = "comparison"\n')
    *_, poem, pooled = groups[0].lines
    assert poem.verdict == TOO_FEW_SEEDS and poem.smallest is None
    assert pooled.result.studies == 2 and pooled.left_out == ("poem",)


def test_equal_differences(tmp_path, monkeypatch, capsys):
    """Differences without any spread, of all seeds and of all texts, and one of zeros."""
    equal = {
        text: {"none": [1.0, 2.0], "layers": [1.25, 2.25], "same": [1.0, 2.0], "spread": [1.0, 2.5]} for text in "abc"
    }
    write_table(tmp_path, bits=equal)
    toml = 'baseline = "none"\nmeta_analysis = true\n'
    lines = [line for group in compute(tmp_path, toml) for line in group.lines]
    assert [line.smallest for line in lines[:2]] == [0.0, 0.0]
    (pooled,) = lines[9:]
    assert pooled.label == "spread" and pooled.result.tau == pooled.result.i2 == 0.0
    assert run(monkeypatch, "plot", "--results", tmp_path, "--output", tmp_path) == 0
    assert "nan" not in capsys.readouterr().out


def test_a_spread_of_rounding_is_no_variance(tmp_path):
    none = [0.7, 1.3, 2.1, 4.3, 8.9]
    write_table(
        tmp_path,
        bits={
            text: {"none": none, "layers": [x - by for x in none]} for text, by in zip("ab", [0.1, 0.3], strict=True)
        },
    )
    groups = compute(tmp_path, 'baseline = "none"\nmeta_analysis = true\n')
    assert 0 < groups[0].lines[0].difference.deviation < 1e-14
    assert [group.title for group in groups] == ["a", "b"], "no mean over texts, with an interval of 1e-15"


def test_two_texts_of_one_name(tmp_path, monkeypatch, capsys):
    for name, sha256 in (("one", "aa"), ("two", "bb")):
        arms = {"none": BITS["book"]["none"]} if name == "one" else {"layers": BITS["book"]["layers"]}
        write_table(tmp_path, name, {"book": arms})
        path = tmp_path / f"{name}.csv"
        path.write_text(path.read_text().replace("\nbook,,", f"\nbook,{sha256},"))
    (tmp_path / "plot.toml").write_text('tables = ["one", "two"]\nbaseline = "none"\n')
    assert run(monkeypatch, "plot", "--results", tmp_path, "--output", tmp_path) == 2
    assert "two.csv has runs of a text 'book' that is not the one of other runs" in capsys.readouterr().err


def test_sums_over_arms_in_groups(tmp_path):
    write_table(tmp_path)
    toml = """
    [comparisons]
    "layers, twice" = { plus = ["layers", "layers"], minus = ["none", "none"], effect = 0.5 }
    "targets" = { plus = ["targets"], minus = "none" }
    [groups]
    "second" = ["targets"]
    "first" = ["layers, twice"]
    """
    second, first = compute(tmp_path, toml)
    assert [line.label for line in first.lines] == ["layers, twice, book", "layers, twice, code"]
    twice = first.lines[0]
    assert isinstance(twice, Line) and twice.difference.mean == pytest.approx(2 * difference("book", "layers").mean)
    assert twice.verdict == "below 0, 5 seeds" and twice.effect == 0.5
    assert [line.label for line in second.lines] == ["targets, book"] and second.lines[0].effect is None


def test_several_tables(tmp_path, monkeypatch, capsys):
    write_table(tmp_path, "one", {"book": BITS["book"]})
    write_table(tmp_path, "two", {"code": BITS["code"]})
    groups = compute(tmp_path, 'tables = ["one", "two"]\nbaseline = "none"\n')
    assert [one.title for one in groups] == ["book", "code"]
    write_table(tmp_path, "two", {"book": BITS["code"]})
    assert run(monkeypatch, "plot", "--results", tmp_path, "--output", tmp_path) == 2
    assert "other bits for 'none', seed 0, on book; collect one of them with --text" in capsys.readouterr().err


@pytest.mark.parametrize("limits", ["", "x_limits = [-0.05, 0.01]\n"])
def test_picture_and_table(limits, tmp_path, monkeypatch, capsys):
    write_table(tmp_path)
    title = "Do they help? $5 & <more>"
    (tmp_path / "plot.toml").write_text(
        f'title = "{title}"\nx_label = "bits"\nbaseline = "none"\neffect = 0.02\nmeta_analysis = true\n{limits}'
    )
    files = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert run(monkeypatch, "plot", "--results", tmp_path, "--output", folder) == 0
        files.append((folder / "plot.svg").read_bytes())
    assert files[0] == files[1]
    svg = files[0].decode()
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg") and "<dc:date>" not in svg
    background = re.search(r'<g id="patch_1">\s*<path d="M 0 (\S+) \nL (\S+) .*? style="fill: #ffffff', svg, re.S)
    assert background is not None and root.attrib["viewBox"] == f"0 0 {background[2]} {background[1]}", "opaque"
    texts = re.findall(r"<!-- (.*?) -->", svg)  # of what is drawn as paths
    values = {f"{one.mean:+.4f} ({one.low:+.4f} to {one.high:+.4f}), n = 5" for one in [difference("book", "layers")]}
    assert values < set(texts) and {"book", "code", "all texts", "layers", "bits"} < set(texts)
    output, notes = capsys.readouterr()
    assert "left out: targets on code, where no seed has all of its arms" in notes
    assert output.count("| better than none by ") == 4, "twice on two texts"
    assert "random effects: tau 0.0" in output and r"\<more\>" in output
    rows = [line for line in output.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}


@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_colours_can_be_distinguished(kind):
    assert min_distance((SHOWN, NOT_SHOWN, POOLED), kind) > 20


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("", "nothing is compared"),
        ("x = ", "is not valid TOML"),
        ('baselin = "none"', "the key 'baselin' is unknown; did you mean baseline?"),
        ('baseline = "non"', "has the unknown arm 'non'"),
        ("baseline = 1", "baseline is 1; it must be text"),
        ('arms = ["layers"]', "nothing is compared"),
        ('baseline = "none"\narms = ["layer"]', "unknown arm 'layer'; did you mean layers?"),
        ('baseline = "none"\narms = ["layers", "none"]', "arms has the baseline 'none', which is compared with itself"),
        (
            'baseline = "none"\n[comparisons]\nlayers = { plus = "layers", minus = "targets" }',
            "comparison 'layers' has the name of the arm that is compared with the baseline; rename it",
        ),
        (
            'baseline = "none"\narms = ["layers"]\n[groups]\na = ["layers"]\nb = ["layers"]',
            "group 'b' has the comparison 'layers', which [groups] had before",
        ),
        ('baseline = "none"\neffect = 0', "effect is 0; it must be a number above 0"),
        ('baseline = "none"\neffect = nan', "effect is nan"),
        ('baseline = "none"\neffect = [1]', "effect is [1]; it must be a number"),
        ('baseline = "none"\ngroup_by = "arm"', "group_by is 'arm'; it must be 'text' or 'comparison'"),
        ('baseline = "none"\nholm = true', "holm is True"),
        ('baseline = "none"\nmeta_analysis = 2', "meta_analysis is 2; it must be true or false"),
        ('baseline = "none"\nx_limits = [1, 0]', "x_limits is [1, 0]; it must be two rising numbers"),
        ('baseline = "none"\nx_limits = 1', "x_limits is 1"),
        ('baseline = "none"\ntables = ["gone"]', "gone.csv has no runs; add them with python -m benchmarks collect"),
        ('baseline = "none"\ntitle = 3', "title is 3; it must be text"),
        ('baseline = "none"\ngroups = 3', "groups is 3; it must be a table"),
        ('baseline = "none"\ngroup_by = "text"\n[groups]\na = ["layers"]', "group_by and [groups] contradict"),
        ('baseline = "none"\n[groups]\na = ["layers"]', "comparison 'lonely' is in no group"),
        ('baseline = "none"\n[groups]\na = ["layer"]', "unknown comparison 'layer'; did you mean layers?"),
        ("[comparisons]\na = 3", "comparison 'a' must be a table with `plus` and `minus`"),
        ('[comparisons]\na = { plus = ["layers"] }', "comparison 'a' must be a table with `plus` and `minus`"),
        ("[comparisons]\na = { plus = [], minus = [] }", "comparison 'a': plus is []"),
        ('[comparisons]\na = { plus = ["layers", "none"], minus = "none" }', "adds 2 arms and subtracts 1"),
        ('[comparisons]\na = { plus = "layers", minus = "none", effect = -1 }', "comparison 'a': effect is -1"),
        ('[comparisons]\na = { plus = "layers", minus = "alone" }', "unknown arm 'alone'"),
        ('[comparisons]\na = { plus = "lonely", minus = "none" }', "no comparison has runs of the same text and seed"),
    ],
)
def test_invalid_file(toml, message, tmp_path, monkeypatch, capsys):
    write_table(tmp_path, bits={**BITS, "poem": {"lonely": [1.0]}})
    (tmp_path / "plot.toml").write_text(toml)
    assert run(monkeypatch, "plot", "--results", tmp_path, "--output", tmp_path) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "plot.svg").exists()


def test_missing_file_and_missing_bits(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "plot", "--results", tmp_path, "--output", tmp_path) == 2
    assert "plot.toml cannot be read: No such file or directory" in capsys.readouterr().err
    (tmp_path / "plot.toml").write_text('baseline = "none"')
    write_table(tmp_path)
    table = tmp_path / "plot.csv"
    table.write_text(table.read_text().replace(",2.05,", ",,"))
    assert run(monkeypatch, "plot", "--results", tmp_path, "--output", tmp_path) == 2
    assert "'none', seed 3, has no bits per character" in capsys.readouterr().err


def list_plots():
    """The names of all files that compare arms; others have only a table [norms]."""
    return sorted(path.stem for path in RESULTS.glob("*.toml") if set(tomllib.loads(path.read_text())) != {"norms"})


@pytest.mark.parametrize("name", list_plots())
def test_committed_picture_is_what_the_command_draws(name, tmp_path):
    committed = (PICTURES / f"{name}.svg").read_bytes()
    if f"Matplotlib v{matplotlib.__version__},".encode() not in committed:
        pytest.skip("the picture is of another version of matplotlib")
    about = read_forest_file(RESULTS, name)
    draw_forest(about, compute_groups(about, read_bits(RESULTS, about.tables)), tmp_path / "new.svg")
    again = f"; draw it again with python -m benchmarks forest {name}"
    assert (tmp_path / "new.svg").read_bytes() == committed, f"{name}.svg is not what the tables give{again}"
