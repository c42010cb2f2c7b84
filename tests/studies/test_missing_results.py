"""studies.run: runs without a value of the metric are left out, named, and repeated unless they are finished."""

import json
from functools import partial

import numpy as np
import pytest

from charladder import studies
from charladder.errors import UserError
from studies.training_functions import train

ARMS = {"none": {}, "aux": {"gain": 0.05}}
run = partial(studies.run, metric="loss", higher_is_better=False, quiet=True)


def early(settings, seed):
    yield 10, {"loss": 1.0 + seed}
    yield 20 + settings.get("more", 0), {"loss": None if settings.get("none_at") == seed else 0.5 + seed / 8}


def test_a_metric_that_is_missing_at_the_last_step_is_no_result(tmp_path):
    arms = {"none": {}, "aux": {"none_at": 1}, "longer": {"more": 10}}
    for _ in range(2):  # the run is not finished, so it is made again
        result = run(early, arms=arms, seeds=6, folder=tmp_path)
        assert result.differences["aux"].seeds == (0, 2, 3, 4, 5)
        text = str(result)
        assert "no result: aux, seed 1: what train yielded last, at step 20, has no loss that is a number" in text
        assert "warning: runs without a result are left out, which may favour their arm: aux seed 1" in text
        assert "warning: the runs end at different steps, from 20 (" in text and ") to 30 (longer seed 5)" in text
    assert json.loads(next(tmp_path.glob("aux-seed1-*.json")).read_text())["state"] == "failed"


def test_values_that_are_not_finite_or_too_large_are_left_out(tmp_path):
    values = [1.0, 1.1, 1.2, 1.05, 1.15, 1.3, 1.4]
    better = [value - 0.5 + value / 100 for value in values[:5]]
    arms = {"none": values, "aux": [*better, "nan", "1e308"], "huge": ["-1e308"] * 7}
    result = run(lambda arm, seed: {"loss": float(arm[seed])}, arms=arms, seeds=7, folder=tmp_path)
    assert result.differences["aux"].verdict.endswith("5 seeds of 7")
    assert result.differences["huge"].verdict == "no finished run"
    text = str(result)
    assert "aux, seed 5: its loss is not a finite number" in text
    assert "aux, seed 6: its loss is 1e+308, which is too large to compare" in text
    assert "may favour their arm: " in text and " and 4 more" in text
    with pytest.raises(UserError, match="is not a finite number"):
        run(lambda arm, seed: {"loss": 10**400}, arms=ARMS, seeds=2, folder=tmp_path)


def test_a_run_without_the_metric_is_repeated(tmp_path):
    returned = {"los": 1.0}

    def corrected(settings, seed):
        return {name: value + seed + len(settings) for name, value in returned.items()}

    with pytest.raises(UserError, match=r"no metric 'loss' .*; did you mean los.*this run is not kept"):
        run(corrected, arms=ARMS, seeds=2, folder=tmp_path)
    returned["loss"] = 1.0
    assert run(corrected, arms=ARMS, seeds=2, folder=tmp_path).means == {"none": 1.5, "aux": 2.5}
    with pytest.raises(UserError, match=r"the finished run has no metric 'f1'.*; to repeat it, delete "):
        run(corrected, arms=ARMS, seeds=2, folder=tmp_path, metric="f1")


def test_arrays_of_one_number_are_metrics(tmp_path):
    arms = {"none": 0.0, "aux": 1.0}
    result = run(lambda arm, seed: {"loss": np.array([[arm + seed]])}, arms=arms, seeds=2, folder=tmp_path)
    assert result.means == {"none": 0.5, "aux": 1.5}
    with pytest.raises(UserError, match="no metric 'loss' that is a number"):
        run(lambda arm, seed: {"loss": np.zeros(2)}, arms=arms, seeds=2, folder=tmp_path / "two")


def test_sys_exit_is_a_failure(tmp_path):
    arms = {"none": {}, "aux": {"gain": 0.05, "sys_exit_at": 1}}
    assert "no result: aux, seed 1: SystemExit\n" in str(run(train, arms=arms, seeds=3, folder=tmp_path))
