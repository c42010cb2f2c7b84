"""Entries of somebody else: what is checked of their predictions."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.speedrun import command_entry, example_entry, predictions
from benchmarks.speedrun.command_entry import CommandEntry, fill
from benchmarks.speedrun.predictions import change_future, check_causality, read_rows, score_predictions
from benchmarks.speedrun.task import open_task
from safetensors.numpy import save_file

from charladder.errors import UserError

EXAMPLE = f"{sys.executable} {example_entry.__file__}"
PREDICT = "predict {text} {begin} {end} {out} {predictions}"


def write(path: Path, probabilities: np.ndarray, name: str = "log_probabilities", dtype=np.float32) -> Path:
    with np.errstate(divide="ignore"):
        save_file({name: np.log(probabilities).astype(dtype)}, path)
    return path


def uniform(rows: int) -> np.ndarray:
    return np.full((rows, 256), 1 / 256)


@pytest.fixture
def small_task(text_file):
    return open_task(str(text_file), 2, quick=True)


@pytest.fixture
def learned(tmp_path, small_task) -> Path:
    """The folder that the example has left after training."""
    text, folder = tmp_path / "train", tmp_path / "out"
    text.write_bytes(small_task.ids_N[: small_task.train_end].tobytes())
    folder.mkdir()
    example_entry.train(str(text), "2", "0", str(folder))
    return folder


def entry(tmp_path: Path, before: str = "", after: str = "") -> CommandEntry:
    """The example, with changes of its function `predict`: lines before the rows are saved, and after."""
    source = Path(example_entry.__file__).read_text()
    saved = '    save_file({"log_probabilities": rows}, predictions)\n'
    assert source.count(saved) == 1
    script = tmp_path / "entry.py"
    script.write_text(source.replace(saved, f"    {before}\n{saved}    {after}\n"))
    return CommandEntry("mine", "", "", f"{sys.executable} {script} {PREDICT}")


def test_the_example_is_scored(tmp_path, small_task, learned):
    score = CommandEntry("pairs", "", "", f"{EXAMPLE} {PREDICT}").score(small_task, learned)
    ids = small_task.ids_N.astype(int)
    counts = np.full((256, 256), 0.01)
    np.add.at(counts, (ids[: small_task.train_end - 1], ids[1 : small_task.train_end]), 1)
    begin, end = small_task.test
    probabilities = (counts / counts.sum(1, keepdims=True))[ids[begin - 1 : end - 1], ids[begin:end]]
    assert score.bits_per_character == pytest.approx(-np.log2(probabilities).mean(), abs=1e-6)
    assert score.context is None


@pytest.mark.parametrize(
    ("before", "sentence"),
    [
        ("rows = rows[1:]", "it must be (1000, 256) and F32"),
        ("rows = rows.astype(np.float64)", "type F64; it must be"),
        ("rows = rows + 0.01", "with probabilities that sum to 1.01; they must sum to 1"),
        ("rows = rows * np.float32(np.nan)", "sum to nan"),
        ("rows = log_probabilities[ids_N[int(begin) : int(end)]]", "it may depend on the characters before it only"),
        ("rows = rows[:, ::-1] * (len(set(ids_N[-99:])) % 7 + 1)", "must sum to 1"),
        ("raise SystemExit('no memory')", "the prediction of mine failed with exit code 1: no memory"),
        ("return", "the command wrote no predictions.safetensors; it must write to {predictions}"),
    ],
)
def test_predictions_that_are_refused(before, sentence, tmp_path, small_task, learned):
    with pytest.raises(UserError) as caught:
        entry(tmp_path, before.replace("rows[:, ::-1]", "rows")).score(small_task, learned)
    assert sentence in str(caught.value)


def test_a_program_that_reads_the_next_character_is_caught_wherever_the_place_is(tmp_path, small_task):
    begin, end = small_task.test
    for _ in range(20):
        place, changed = change_future(small_task)
        assert begin <= place < end and len(changed) == len(small_task.ids_N)
        assert (changed[:place] == small_task.ids_N[:place]).all() and changed[place] != small_task.ids_N[place]
        rows, files = end - begin, []
        for name, ids in (("one", small_task.ids_N), ("two", changed)):
            seen = np.full((rows, 256), 0.1 / 255)
            seen[np.arange(rows), ids[begin:end]] = 0.9
            files.append(write(tmp_path / name, seen))
        with pytest.raises(UserError, match=f"character {place - begin:,} of the test part changed"):
            check_causality(files[0], files[1], place - begin, rows)
        if place > begin:
            check_causality(files[0], files[1], place - begin - 1, rows)


def test_bits_and_their_normalisation(tmp_path):
    test = np.array([3, 200], np.uint8)
    probabilities = uniform(2)
    assert score_predictions(write(tmp_path / "one", probabilities), test) == pytest.approx(8)
    assert score_predictions(write(tmp_path / "two", probabilities * 1.0009), test) == pytest.approx(8)
    probabilities[1] = 0
    probabilities[1, 200] = 1
    assert score_predictions(write(tmp_path / "three", probabilities), test) == pytest.approx(4)
    probabilities[1, 200], probabilities[1, 7] = 0, 1
    with pytest.raises(UserError, match="gives character 1 of the test part the probability 0"):
        score_predictions(write(tmp_path / "four", probabilities), test)


def test_rows_are_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "_ROWS", 3)
    draw = np.random.default_rng(0).dirichlet(np.ones(256), 10)
    test = np.arange(10, dtype=np.uint8)
    path = write(tmp_path / "one", draw)
    assert [len(rows) for rows in read_rows(path, 10)] == [3, 3, 3, 1]
    assert score_predictions(path, test) == pytest.approx(-np.log2(draw[test, test]).mean(), abs=1e-6)
    other = draw.copy()
    other[7] = uniform(1)
    check_causality(path, write(tmp_path / "two", other), 6, 10)
    with pytest.raises(UserError, match="character 7 of"):
        check_causality(path, tmp_path / "two", 7, 10)


def test_damaged_files(tmp_path):
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        list(read_rows(damaged, 2))
    with pytest.raises(UserError, match="has no tensor log_probabilities"):
        list(read_rows(write(tmp_path / "named", uniform(2), name="logits"), 2))
    with pytest.raises(UserError, match="it must be"):
        list(read_rows(write(tmp_path / "flat", uniform(2).ravel()), 2))


def test_places_are_filled_word_by_word():
    words = fill("run '{text} x' --seed={seed} {other}", {"text": "a b", "seed": 3})
    assert words == ["run", "a b x", "--seed=3", "{other}"]


def test_both_texts_have_the_same_length_and_come_in_random_order(tmp_path, small_task, learned, monkeypatch):
    orders = set()
    real = small_task.ids_N[small_task.train_end :].tobytes()

    def record(command, folder, limit, name):
        data = (folder / "text").read_bytes()
        assert len(data) == len(real) and limit == command_entry.PREDICT_LIMIT
        seen.append(data == real)
        write(folder / "predictions.safetensors", uniform(1000))

    monkeypatch.setattr(command_entry, "run_timed", record)
    for _ in range(40):
        seen: list[bool] = []
        score = CommandEntry("even", "", "", PREDICT).score(small_task, learned)
        assert math.isclose(score.bits_per_character, 8, rel_tol=1e-6)
        orders.add(tuple(seen))
    assert orders == {(True, False), (False, True)}
