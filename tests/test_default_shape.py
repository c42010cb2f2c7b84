"""The default shape of a network, by budget and by the length of the text."""

import json
import subprocess
import sys

import pytest

from charladder.default_shape import (
    FREQUENT_VALIDATIONS,
    SHAPE_FIELDS,
    SHAPE_FOR_SMALL_TEXTS,
    SHAPE_WITHOUT_MINUTES,
    choose_shape,
    is_small_text,
)
from charladder.recipe import resolve

PARTS = {"text.valid": 0.05, "text.test": 0.05}


@pytest.mark.parametrize(
    ("characters", "fields", "small"),
    [
        (10_000, {"training.characters": 36_000}, True),
        (10_000, {"training.characters": 35_999}, False),
        (22_222, {"training.characters": 10**9}, True),  # 19,999.8 of them are training text
        (22_223, {"training.characters": 10**9}, False),
        (30_000, {"training.characters": 10**9, "text.valid": 8_000, "text.test": 8_000}, True),
        (10_000, {"training.minutes": 0.2}, True),
        (10_000, {"training.minutes": 0.1}, False),
        (10_000, {"training.steps": 140}, False),
        (10_000, {"training.steps": 141}, True),
        (10_000, {"training.steps": 141, "training.batch": 4}, False),
        (0, {"training.minutes": 60.0}, False),
        (100, {"training.minutes": 60.0, "text.valid": 60, "text.test": 60}, False),
    ],
)
def test_a_text_is_small_if_it_is_short_and_read_often(characters, fields, small):
    fields = PARTS | {"text.characters": characters} | fields
    assert is_small_text(fields) == small
    assert (choose_shape(fields) == SHAPE_FOR_SMALL_TEXTS) == small


def test_fields_that_are_set_are_not_changed():
    fields = {"text.characters": 5_000, "training.characters": 10**6, "model.layers": 3, "model.dropout": 0.0}
    model = resolve(fields).model
    assert (model.layers, model.dropout, model.context) == (3, 0.0, SHAPE_FOR_SMALL_TEXTS.context)


def test_patience_sets_more_validations_unless_these_are_set():
    assert resolve({"training.steps": 10}).training.validations == SHAPE_WITHOUT_MINUTES.validations
    assert resolve({"training.steps": 10, "training.patience": 3}).training.validations == FREQUENT_VALIDATIONS
    assert resolve({"training.steps": 10, "training.patience": 3, "training.validations": 7}).training.validations == 7


def train(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "charladder", "train", "--score", "none", "--json", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)


@pytest.mark.slow
def test_train_notes_a_small_text_and_config_toml_has_its_length(tmp_path, text_file):
    run = tmp_path / "run"
    first = train(str(text_file), "--training.characters", "16000", "--run", str(run))
    assert "model.layers = 1, model.width = 64, model.context = 32, model.dropout = 0.5" in first.stderr
    assert "training.validations = 20" in first.stderr
    config = (run / "config.toml").read_text()
    assert f"characters = {len(text_file.read_text())}" in config
    assert all(f"\n{name.split('.')[1]} = " in config for name in SHAPE_FIELDS.values())
    resumed = train("--resume", str(run), "--extend", "--training.characters", "17000")
    assert "small text" not in resumed.stderr
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["characters"] >= 17_000
