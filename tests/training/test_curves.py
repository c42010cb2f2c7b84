"""curves.png: the drawn curves and the range of the axes."""

import json

import pytest

from charladder.training.curves import _draw_auxiliary, _draw_main, _title, draw_curves

figure = pytest.importorskip("matplotlib.figure")


def step(number: int, main: float, **others: float) -> dict:
    terms = {name: {"bits": bits} for name, bits in {"main": main, **others}.items()}
    return {"step": number, "characters": number * 10**4, "terms": terms}


STEPS = [step(1, 8.0, low=8.5), step(50, 3.0, low=4.0), step(100, 2.0)]
VALID = {"split": "valid", "trained_characters": 500_000, "bits_per_character": 3.5, "part": True}
FINAL = {"split": "valid", "trained_characters": 1_000_000, "bits_per_character": 2.5, "part": True, "final": True}
LINES = [*STEPS, VALID, FINAL]


@pytest.fixture
def axes():
    return figure.Figure().subplots()


def test_the_final_score_is_a_separate_point(axes):
    _draw_main(axes, STEPS, LINES)
    drawn = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}
    assert drawn["validations"] == [(0.5, 3.5)]
    assert drawn["score at the end"] == [(1.0, 2.5)]
    assert next(line for line in axes.lines if line.get_label() == "score at the end").get_linestyle() == "None"


def test_the_first_steps_do_not_determine_the_y_axis(axes):
    _draw_main(axes, STEPS, LINES)
    assert axes.get_ylim()[1] < 4


def test_auxiliary_terms_are_drawn_minus_the_main_term(axes):
    _draw_auxiliary(axes, STEPS)
    assert {line.get_label(): list(line.get_ydata()) for line in axes.lines}["low"] == [0.5, 1.0]


def test_the_title_names_the_run_and_its_score(tmp_path):
    assert (
        _title(tmp_path / "first$", STEPS, LINES)
        == "first$: 100 steps, 1,000,000 characters, valid: 2.500 bits per character"
    )


@pytest.mark.parametrize("name", ["$\\frac{$", "\ud800", "_hidden"])
def test_terms_with_any_characters_in_their_names_are_drawn(tmp_path, name):
    lines = [step(1, 8.0, **{name: 8.5}), step(2, 7.0, **{name: 1e308})]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert draw_curves(tmp_path).read_bytes()[1:4] == b"PNG"
