"""Invalid lines of metrics.jsonl are skipped, and curves.png is drawn without them."""

import json
import math
import tracemalloc

import pytest

from charladder.errors import DamagedDataWarning, UserError
from charladder.training.curves import draw_curves
from charladder.training.metrics import MAX_LINE_BYTES, Metrics, read_metrics

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
def test_lines_with_integers_beyond_float_range_are_skipped(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{json.dumps(line)}\n")
    with pytest.warns(DamagedDataWarning, match="line 2 of .*metrics.jsonl is damaged, and is left out"):
        assert read_metrics(path) == [GOOD]


def test_damaged_lines_are_reported_and_an_incomplete_last_line_is_not(tmp_path):
    path, good = tmp_path / "metrics.jsonl", json.dumps(GOOD)
    path.write_text(f"{good}\n" + good[:20])
    assert read_metrics(path) == [GOOD], "a crash cut the last line short, or it is being written"
    path.write_bytes(f"{good}\n{good[:20]}\n\xff\n[]\n{good}\n".encode("latin-1"))
    with pytest.warns(DamagedDataWarning, match="3 lines of .*metrics.jsonl are damaged, and are left out: 2, 3, 4$"):
        assert read_metrics(path) == [GOOD, GOOD]
    path.write_text("x\n" * 1000 + good + "\n")
    with pytest.warns(DamagedDataWarning, match="1,000 lines of .* are left out: 1, 2, 3, 4, 5 and 995 more$"):
        assert read_metrics(path) == [GOOD]


def test_a_long_line_and_a_long_file_need_little_memory(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with path.open("wb") as file:
        file.truncate(1 << 27)
        file.seek(0, 2)
        file.write(f"\n{json.dumps(GOOD)}\n".encode())
    tracemalloc.start()
    with pytest.warns(DamagedDataWarning, match="line 1 of"):
        assert read_metrics(path) == [GOOD]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * MAX_LINE_BYTES
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match="1,099,511,627,776 bytes, and is not read"):
        read_metrics(path)


def test_an_evaluation_that_was_not_finite_is_read_as_nan_and_written_as_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    line = {"step": 1, "trained_characters": 10, "split": "valid", "part": True, "bits_per_character": float("nan")}
    metrics = Metrics(path, 0)
    metrics.write(line)
    metrics.close()
    Metrics(path, 1).close()  # as in a resumed run
    assert json.loads(path.read_text()) == {**line, "bits_per_character": None}
    (entry,) = read_metrics(path)
    assert math.isnan(entry["bits_per_character"])


@pytest.mark.parametrize("name", [r"$\frac{$", "\ud800", "a\nb"])
def test_terms_with_any_name_and_bits_are_drawn(tmp_path, name):
    pytest.importorskip("matplotlib")
    line = GOOD | {"terms": {"main": {"bits": 1e308}, name: {"bits": -1e308}}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    path = draw_curves(tmp_path)
    assert path is not None and path.stat().st_size > 1000
