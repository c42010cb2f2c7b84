"""studies.run: mistakes of a user give one sentence."""

import math
import sys
from functools import partial
from pathlib import Path

import pytest

from charladder import studies
from charladder.errors import UserError
from studies.training_functions import nothing, train

ARMS = {"none": {}, "aux": {"gain": 0.05}}
run = partial(studies.run, metric="loss", higher_is_better=False, quiet=True)


def not_finite(settings, seed):
    return {"loss": math.nan}


def falling_steps(settings, seed):
    yield 2, {"loss": 1.0}
    yield 1, {"loss": 1.0}


def bare_metrics(settings, seed):
    yield {"loss": 1.0}


MISTAKES = {
    "one arm": ({"arms": {"none": {}}}, "arms has only 'none'; a comparison needs a baseline and at least one other"),
    "no arms": ({"arms": {}}, "arms has no arm; a comparison needs"),
    "arms as a list": ({"arms": ["none", "aux"]}, "arms must be a mapping from names to settings"),
    "unknown baseline": ({"baseline": "nnoe"}, "the baseline 'nnoe' is none of the arms; did you mean none?"),
    "one seed": ({"seeds": 1}, "seeds has 1 seed; an interval needs at least 2"),
    "no seeds": ({"seeds": 0}, "seeds of the study is 0; it must be a list of whole numbers, or their number"),
    "a seed twice": ({"seeds": [1, 1]}, "the study has the seed 1 twice; leave one out"),
    "unknown metric": ({"metric": "los"}, "train returned no metric 'los' that is a number; did you mean loss?"),
    "NaN": ({"train": not_finite}, "no arm has a seed in common with the baseline 'none'; none, seed 0: its loss"),
    "nothing": ({"train": nothing}, "arm 'none', seed 0: train returned nothing; it must return its metrics, such as"),
    "a number": ({"train": lambda arm, seed: 0.5}, "train returned a value of type float; it must return its metrics"),
    "falling steps": ({"train": falling_steps}, "train yielded step 1 after step 2; steps must rise"),
    "no step": ({"train": bare_metrics}, "train yielded {'loss': 1.0}; it must yield pairs of a step and metrics"),
    "an error": ({"train": lambda arm, seed: 1 / 0}, "none, seed 0: ZeroDivisionError: division by zero"),
    "not callable": ({"train": {}}, "train is {}; it must be a function of an arm's settings and a seed"),
    "metric": ({"metric": ["loss"]}, "metric is ['loss']; it must be the name of one metric that train gives"),
    "no metric": ({"metric": None}, "metric is None; it must be the name of one metric"),
    "direction": ({"higher_is_better": "lower"}, "higher_is_better is 'lower'; it must be True or False"),
    "baseline": ({"baseline": ["none"]}, "baseline is ['none']; it must be the name of one of the arms"),
    "folder": ({"folder": 3}, "folder is 3; it must be a path, as text or pathlib.Path"),
    "folder below a file": ({"folder": Path(__file__) / "runs"}, "cannot be used: "),
    "folder in /proc": ({"folder": "/proc/x/y"}, "the folder '/proc/x/y' cannot be used: "),
    "zero byte": ({"folder": "a\0b"}, "cannot be used: "),
    "half a surrogate pair": ({"arms": {"none": {}, "\ud800": {}}}, "is '\\ud800', which has a character"),
    "effect": ({"effect": -1}, "effect is -1; it must be a number above 0"),
    "processes": ({"processes": 0}, "processes is 0; it must be a whole number from 1"),
    "not importable": ({"train": lambda arm, seed: {}, "processes": 2}, "train cannot be sent to another process"),
    "settings": ({"arms": {"none": {}, "aux": {"loss": math.sqrt}}}, "the settings of arm 'aux' cannot be recorded"),
    "settings, half a pair": ({"arms": {"none": {}, "aux": "\ud800"}}, "'aux' cannot be recorded as JSON: 'utf-8'"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name, tmp_path):
    changes, sentence = MISTAKES[name]
    call = {"train": train, "arms": ARMS, "seeds": 2, "folder": tmp_path / "runs"} | changes
    with pytest.raises(UserError) as caught:
        run(call.pop("train"), **call)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_in_place_of_the_folder_or_a_damaged_record(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, and a study needs a folder"):
        run(train, arms=ARMS, folder=tmp_path / "file")
    run(train, arms=ARMS, seeds=2, folder=tmp_path)
    next(tmp_path.glob("aux-seed1-*.json")).write_text('{"format')
    with pytest.raises(UserError, match=r"cannot be read: .*; delete it, and the run is repeated"):
        run(train, arms=ARMS, seeds=2, folder=tmp_path)


def test_missing_scipy_is_named_before_any_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(UserError, match=r'pip install "charladder\[study\]"'):
        run(lambda arm, seed: pytest.fail("a run began"), arms=ARMS, folder=tmp_path)
