"""Lines of metrics.jsonl that no run writes are left out, and never stop a picture."""

import json
import math

import pytest

from charladder.training.curves import draw_curves
from charladder.training.metrics import Metrics, read_metrics

GOOD = {"step": 1, "characters": 10, "terms": {"main": {"bits": 3.0}}}
LONG = int("9" * 400)


@pytest.mark.parametrize(
    "line",
    [
        GOOD | {"step": LONG},
        GOOD | {"characters": LONG},
        GOOD | {"terms": {"main": {"bits": LONG}}},
        {"step": 1, "split": "valid", "part": "x", "trained_characters": LONG, "bits_per_character": 3.0},
        {"step": 1, "split": "valid", "part": "x", "trained_characters": 10, "bits_per_character": -LONG},
    ],
)
def test_integers_that_no_float_can_hold_are_left_out(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{json.dumps(line)}\n")
    assert read_metrics(path) == [GOOD]


def test_an_evaluation_that_was_not_finite_is_read_as_nan_and_written_as_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    line = {"step": 1, "trained_characters": 10, "split": "valid", "part": True, "bits_per_character": float("nan")}
    metrics = Metrics(path, 0)
    metrics.write(line)
    metrics.close()
    Metrics(path, 1).close()  # as when the run goes on
    assert json.loads(path.read_text()) == {**line, "bits_per_character": None}
    (read,) = read_metrics(path)
    assert math.isnan(read["bits_per_character"])


@pytest.mark.parametrize("name", [r"$\frac{$", "\ud800", "a\nb"])
def test_terms_of_any_name_and_bits_are_drawn(tmp_path, name):
    pytest.importorskip("matplotlib")
    line = GOOD | {"terms": {"main": {"bits": 1e308}, name: {"bits": -1e308}}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    path = draw_curves(tmp_path)
    assert path is not None and path.stat().st_size > 1000
