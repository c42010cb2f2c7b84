"""studies.run: other values that are bound to the training function are other runs, or give a warning."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from charladder import studies
from charladder.studies.bound_values import find_bound_values
from charladder.studies.records import hash_source
from studies.training_functions import train

ARMS = {"none": {}, "aux": {"gain": 0.05}}
run = partial(studies.run, metric="loss", higher_is_better=False, quiet=True)


def scaled(settings, seed, scale=1.0):
    return {"loss": scale * train(settings, seed)["loss"]}


class Scaled:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, settings, seed):
        return scaled(settings, seed, self.scale)

    def method(self, settings, seed):
        return scaled(settings, seed, self.scale)


def closure(scale):
    return lambda settings, seed: scaled(settings, seed, scale)


def listed(scale):
    return partial(counted_scale, [scale])


def counted_scale(scale, settings, seed):
    return scaled(settings, seed, scale[0])


BINDINGS = [lambda scale: partial(scaled, scale=scale), closure, Scaled, lambda scale: Scaled(scale).method]


def test_other_bound_values_are_other_runs(tmp_path):
    for number, bind in enumerate(BINDINGS):
        once, twice, again = (
            run(bind(scale), arms=ARMS, seeds=2, folder=tmp_path / str(number)) for scale in (1.0, 2.0, 1.0)
        )
        assert twice.means["none"] == pytest.approx(2 * once.means["none"])
        assert again.runs == once.runs and not again.data.warnings
        assert len(list((tmp_path / str(number)).glob("*.json"))) == 8


def test_changed_lists_and_objects_that_are_not_seen_are_warned_of(tmp_path):
    assert not run(listed(1.0), arms=ARMS, seeds=2, folder=tmp_path).data.warnings
    (warning,) = run(listed(2.0), arms=ARMS, seeds=2, folder=tmp_path).data.warnings
    assert "or a value bound to it, has changed since 4 of 4 runs, which were not repeated" in warning
    for _ in range(2):
        (warning,) = run(closure(np.ones(())), arms=ARMS, seeds=2, folder=tmp_path).data.warnings
        assert "changes of scale, bound to" in warning and "are not seen" in warning


def test_the_source_of_a_partial_is_that_of_its_function():
    assert hash_source(partial(partial(scaled), scale=2.0)) == hash_source(scaled) is not None
    assert hash_source(Scaled(1.0)) not in (None, hash_source(scaled))


def test_bound_functions_and_configurations():
    @dataclass(frozen=True)
    class Config:
        rate: float

    bound = find_bound_values(partial(train, math.sqrt, config=Config(0.1), options={"a": (1, 2)}, model=object()))
    assert bound.fixed["argument 0"] == "sqrt" and "0.1" in bound.fixed["config"]
    assert list(bound.changeable) == ["options"] and list(bound.unseen) == ["model"]
