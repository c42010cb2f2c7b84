import csv
import dataclasses
import io
import json
import re
import sys
from html.parser import HTMLParser

import pytest
from scipy.stats import ttest_1samp

from charladder.errors import UserError
from charladder.studies import (
    csv_tables,
    html_report,
    markdown_report,
    plan,
    recipe_report,
    report_figures,
    report_files,
)
from charladder.studies.results import collect_results
from charladder.studies.statistics import TOO_FEW_SEEDS
from studies.fakes import ENVIRONMENT, make_plan, make_run

BITS = {"none": [2.0, 2.1, 2.2, 2.05, 2.15], "layers": [1.9, 2.01, 2.09, 1.96, 2.04]}


@pytest.fixture
def folder(tmp_path):
    for arm, several in BITS.items():
        for seed, bits in enumerate(several):
            make_run(tmp_path, arm, seed, bits, speed=1000 if arm == "none" else 500)
    return tmp_path


def build(folder, **changes):
    planned = make_plan(**changes)
    return recipe_report.build_report(planned, collect_results(folder, planned))


def test_five_seeds_and_a_clear_difference_are_a_claim(folder):
    none, layers = build(folder).arms
    assert none.verdict == "the baseline" and none.difference is None
    assert none.score is not None and none.score.mean == pytest.approx(2.1)
    assert layers.difference is not None and layers.difference.mean == pytest.approx(-0.1)
    assert layers.verdict.startswith("better than none by 0.100 (0.0") and layers.verdict.endswith("5 seeds")
    assert layers.p_holm == layers.difference.p
    speed = layers.training.characters_per_second
    assert speed is not None and speed.mean == pytest.approx(500)


def test_level_is_reached_between_validations_or_not_at_all(folder):
    built = build(folder)
    none, layers = built.arms
    # The last score of the prefix is at step 32 of 40: one bit above the line from 8 to what the run ends with.
    assert built.level == pytest.approx(9 + (2.1 - 8) * 0.8)
    level = none.training.level_reached
    assert (level.reached_by, level.runs, level.characters) == (3, 5, None)
    level = layers.training.level_reached
    assert (level.reached_by, level.runs) == (5, 5)
    assert level.characters is not None and 2400 < level.characters < 3200
    assert level.seconds == pytest.approx(level.characters / 500)


def test_difference_at_equal_seconds(folder):
    none, layers = build(folder).arms
    # `none` is scored last at step 32, after 3.2 s; `layers`, at half the speed, is then at step 16.
    expected = [(slow - 8) * 0.4 - (fast - 8) * 0.8 for fast, slow in zip(BITS["none"], BITS["layers"], strict=True)]
    found = layers.training.difference_at_equal_seconds
    assert none.training.difference_at_equal_seconds is None and found is not None
    assert found.mean == pytest.approx(sum(expected) / 5)
    assert found.p == layers.training.p_holm_at_equal_seconds and found.p < 0.001
    rows = list(csv.DictReader(io.StringIO(csv_tables.summary_csv(build(folder)))))
    assert float(rows[1]["difference_at_equal_seconds"]) == pytest.approx(found.mean)
    assert f"{found.mean:+.4f}" in markdown_report.to_markdown(build(folder))


def test_one_seed_has_no_interval_and_no_claim(folder):
    built = build(folder, seeds=1)
    assert [one.verdict for one in built.arms] == ["the baseline", TOO_FEW_SEEDS]
    for text in (markdown_report.to_markdown(built), html_report.to_html(built)):
        assert "better than" not in text and "worse than" not in text
        assert not re.search(r"\d to [-+]?\d", text)
    for row in csv.DictReader(io.StringIO(csv_tables.summary_csv(built))):
        assert row["low"] == row["high"] == row["p"] == row["p_holm"] == row["difference_low"] == ""


def test_missing_runs_are_named_before_the_results(folder):
    (folder / "layers-seed3" / "metrics.jsonl").unlink()
    built = build(folder)
    assert built.arms[1].verdict == TOO_FEW_SEEDS
    assert built.arms[1].difference is not None and built.arms[1].difference.seeds == (0, 1, 2, 4)
    assert "layers, seed 3: unfinished at step 0" in markdown_report.to_markdown(built).split("## Results")[0]
    assert "layers, seed 3: unfinished at step 0" in html_report.to_html(built).split("<h2>Results")[0]
    rows = list(csv.DictReader(io.StringIO(csv_tables.runs_csv(built))))
    assert len(rows) == 10
    assert rows[8]["gap"] == "unfinished at step 0" and rows[8]["bits_per_character"] == ""


def test_report_without_any_run(tmp_path):
    built = build(tmp_path)
    assert [one.verdict for one in built.arms] == ["no finished run"] * 2
    assert len(built.missing) == 10
    assert "not started" in html_report.to_html(built) and "not started" in markdown_report.to_markdown(built)


def test_warnings_about_different_data_and_machines(tmp_path):
    other = ENVIRONMENT | {"data": {"name": "book.txt", "sha256": "cd" * 32}, "machine": {"processor": "Abacus 13"}}
    make_run(tmp_path, "none", 0, 2.0)
    make_run(tmp_path, "layers", 0, 1.9, environment=other)
    built = build(tmp_path, seeds=1)
    assert [any(word in said for said in built.warnings) for word in ("data", "machine")] == [True, True]
    assert "the runs differ in the data" in html_report.to_html(built)


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.outside, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "data") and not (value or "").startswith("#"):
                self.outside.append(value)
            if name == "id":
                self.ids.append(value)


def test_page_is_self_contained_and_escapes_text_of_files(tmp_path):
    evil = '<script>alert("x")</script> $a_b$ & "'
    make_run(tmp_path, "none", 0, 2.0, environment=ENVIRONMENT | {"data": {"name": evil, "sha256": evil}})
    made = make_plan(seeds=1, arms=("none",), name=evil, question=evil)
    results = collect_results(tmp_path, made)
    evil_arm = plan.Arm(evil, {"text.data": evil})
    renamed = dataclasses.replace(results, finished=tuple(dataclasses.replace(r, arm=evil) for r in results.finished))
    built = recipe_report.build_report(dataclasses.replace(made, arms=(evil_arm,), baseline=evil), renamed)
    text = html_report.to_html(built)
    reader = Reader()
    reader.feed(text)
    assert "script" not in reader.tags and reader.outside == []
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert reader.tags.count("svg") == 3
    assert len(set(reader.ids)) == len(reader.ids)
    assert "<script" not in markdown_report.to_markdown(built).replace("\\<", "")


def test_markdown_in_names_is_shown_literally(folder):
    name = "[a](http://b.c) **d** `e` &lt; ~f~ \\ | <g> 1. h"
    texts = HtmlText()
    texts.feed(html_report.to_html(build(folder, question=name, rule="1. h", name="- i")))
    assert texts.lines.count(name) == 2 and texts.lines.count("1. h") == 1


class HtmlText(HTMLParser):
    def __init__(self):
        super().__init__()
        self.lines = []

    def handle_data(self, data):
        self.lines.append(data.strip().removeprefix("question: "))


def test_tables_scroll_and_have_row_and_column_headers(folder):
    text = html_report.to_html(build(folder))
    assert text.count('<div class="wide" role="region" aria-label="Results" tabindex="0"><table>') == 1
    assert text.count("<table>") == text.count("</table></div>") == 2
    assert '<th scope="col">verdict</th>' in text and '<th scope="row">layers</th>' in text


@pytest.mark.parametrize("library", ["scipy", "markdown_it", "matplotlib"])
def test_a_missing_library_is_named_with_the_extra_to_install(folder, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setitem(sys.modules, f"{library}.stats", None)
    with pytest.raises(UserError, match=r'pip install "charladder\[(study|plot)\]"'):
        html_report.to_html(build(folder))


def test_all_files_have_the_same_numbers(folder):
    built = build(folder)
    for row in csv.DictReader(io.StringIO(csv_tables.summary_csv(built))):
        line = next(
            line
            for line in markdown_report.to_markdown(built).splitlines()
            if line.startswith(f"| {row['arm']} | 5 of 5")
        )
        for text in (line, html_report.to_html(built)):
            assert f"{float(row['bits_per_character']):.4f}" in text
            assert f"{float(row['low']):.4f} to {float(row['high']):.4f}" in text
            assert row["verdict"] in text
    rows = list(csv.DictReader(io.StringIO(csv_tables.runs_csv(built))))
    assert [float(row["bits_per_character"]) for row in rows] == BITS["none"] + BITS["layers"]


def test_report_files_are_overwritten(folder, monkeypatch):
    monkeypatch.setattr(report_files, "read_plan", lambda path: make_plan())
    for _ in range(2):
        written = report_files.write_report(folder)
        assert [path.name for path in written] == ["report.html", "report.md", "report.csv", "summary.csv", "norms.csv"]
        assert all(path.stat().st_size > 100 for path in written)
    assert not list(folder.glob(".*.part"))


def test_contrasts_add_and_subtract_arms_by_seed(tmp_path):
    """A difference of differences that is known."""
    effects = {"a": 0.0, "b": 0.5, "c": 0.1, "d": 0.9}
    noise = [0.0, 0.02, -0.01, 0.03, -0.04]
    for arm, effect in effects.items():
        for seed in range(5):
            own = noise[seed] if arm == "d" else 0.3 * seed  # only d has independent noise
            make_run(tmp_path, arm, seed, 2.0 + effect + own)
    contrast = plan.Contrast("more", ("b", "c"), ("a", "d"))
    built = build(tmp_path, arms=tuple(effects), baseline="a", contrasts=(contrast,))
    (found,) = built.contrasts
    each = [0.5 + 0.1 - 0.9 + 0.3 * seed - noise[seed] for seed in range(5)]
    assert found.bits is not None and found.bits.mean == pytest.approx(sum(each) / 5)
    assert found.bits.p == pytest.approx(ttest_1samp(each, 0).pvalue)
    assert found.train_bits is not None and found.train_bits.seeds == (0, 1, 2, 3, 4)
    for text in (markdown_report.to_markdown(built), html_report.to_html(built)):
        assert f"{found.bits.mean:+.4f}" in text and "b, c" in text
    (tmp_path / plan.run_directory_name("d", 4) / "metrics.jsonl").unlink()
    (fewer,) = build(tmp_path, arms=tuple(effects), baseline="a", contrasts=(contrast,)).contrasts
    assert fewer.bits is not None and fewer.bits.seeds == (0, 1, 2, 3)


def test_no_contrasts_table_without_contrasts(folder):
    assert "Contrasts" not in markdown_report.to_markdown(build(folder)) and "Contrasts" not in html_report.to_html(
        build(folder)
    )


def test_gradient_norms_are_means_over_thirds_and_runs(folder):
    rows = list(csv.DictReader(io.StringIO(csv_tables.gradient_norms_csv(build(folder)))))
    assert [(r["arm"], r["third"], r["layer"]) for r in rows[:6]] == [
        ("none", third, layer) for third in ("early", "mid", "late") for layer in ("1", "2")
    ]
    for row in rows:
        norm = 0.1 * int(row["layer"])
        assert float(row["norm"]) == pytest.approx(norm)
        assert float(row["norm_of_the_main_term_alone"]) == pytest.approx(norm / 2)


def test_page_begins_with_the_verdict_and_a_forest_plot(folder):
    text = html_report.to_html(build(folder))
    order = [
        "<h2>Verdict</h2>",
        "layers: better than none by 0.100",
        'aria-label="Difference of each arm',
        "<h2>Results",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert text.index("<details><summary>What was run") > text.index("<h2>Pictures")


def test_forest_plot_has_the_claim_colour_only_for_claims(folder):
    """Blue is the colour of a claim, which four seeds do not allow at any p-value."""
    blue = "#0072b2"
    assert blue in report_figures.forest_plot(build(folder))
    few = build(folder, seeds=4)
    assert few.arms[1].verdict == TOO_FEW_SEEDS and few.arms[1].p_holm < 0.05
    assert blue not in report_figures.forest_plot(few)


def test_y_axis_fits_the_curves_after_the_opening(folder, monkeypatch):
    for metrics in folder.glob("*/metrics.jsonl"):
        first, *others = metrics.read_text().splitlines()
        first = json.dumps(json.loads(first) | {"terms": {"main": {"bits": 40.0, "weight": 1.0, "share": 40.0}}})
        metrics.write_text("\n".join([first, *others]) + "\n")
    figures = []
    monkeypatch.setattr(report_figures, "_to_svg", lambda figure, *about: figures.append(figure) or "")
    report_figures.learning_curves(build(folder).curves[1])
    (axes,) = figures[0].axes
    assert axes.lines[0].get_ydata().max() == 40
    assert 8 < axes.get_ylim()[1] < 10
    assert len(axes.get_xticks()) <= 7  # with one beyond each end: labels of five digits do not touch
