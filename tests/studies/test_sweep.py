"""Sweeps of plans: the trials, the choice for each arm, and plans that would choose with a bias."""

import dataclasses
from pathlib import Path

import pytest
import tomli_w

from charladder.errors import UserError
from charladder.studies.plan import Plan
from charladder.studies.plan_file import plan_to_tables, read_plan
from charladder.studies.sweep import sweep_plan, tuned_plan, values_at_edge

TABLES = {
    "name": "tiny",
    "data": ["text"],
    "set": {"training.steps": 5, "text.valid": 200},
    "arms": {"none": {"objective.intermediate": False}, "layers": {}},
    "seeds": 2,
    "baseline": "none",
    "sweep": {"seeds": [7, 8], "training.learning_rate": [0.1, 0.2, 0.3], "model.dropout": [0.0, 0.1]},
}
RATES = 0.1, 0.2, 0.3


def plan(folder: Path, **changes) -> Plan:
    path = folder / "tiny.toml"
    path.write_text(tomli_w.dumps(TABLES | changes))
    return read_plan(path)


def name(arm: str, rate: float, dropout: float = 0.0) -> str:
    return f"{arm} learning_rate={rate} dropout={dropout}"


def scores(best: dict[str, float]) -> dict[tuple[str, int], float]:
    """Bits that are lowest at the best rate of each arm, without dropout."""
    return {
        (name(arm, rate, dropout), seed): 2 + abs(rate - best[arm]) + 5 * dropout + seed / 100
        for arm in best
        for rate in RATES
        for dropout in (0.0, 0.1)
        for seed in (7, 8)
    }


def test_trials_are_every_arm_with_every_combination(tmp_path):
    trials = sweep_plan(plan(tmp_path))
    expected = [name(arm, rate, dropout) for arm in ("none", "layers") for rate in RATES for dropout in (0.0, 0.1)]
    assert [arm.name for arm in trials.arms] == expected
    assert trials.arms[3].fields == {
        "objective.intermediate": False, "training.learning_rate": 0.2, "model.dropout": 0.1,
    }  # fmt: skip
    assert (trials.seeds, trials.sweep, trials.name, trials.baseline) == ((7, 8), None, "tiny-sweep", expected[0])


def test_each_arm_gets_its_own_best_values(tmp_path):
    tuned = tuned_plan(plan(tmp_path), scores({"none": 0.2, "layers": 0.3}))
    assert [arm.fields["training.learning_rate"] for arm in tuned.arms] == [0.2, 0.3]
    assert [arm.fields["model.dropout"] for arm in tuned.arms] == [0.0, 0.0]
    assert ([arm.name for arm in tuned.arms], tuned.seeds, tuned.sweep) == (["none", "layers"], (0, 1), None)
    path = tmp_path / "tuned.toml"
    path.write_text(tomli_w.dumps(plan_to_tables(tuned)))
    assert read_plan(path) == tuned


def test_fields_that_only_one_arm_tunes(tmp_path):
    arms = {"none": {"sweep": {"training.weight_decay": [0.0, 0.1]}}, "layers": {"objective.targets": 3}}
    sweep = {"seeds": [7], "training.learning_rate": [0.1, 0.2]}
    original = plan(
        tmp_path, arms=arms, sweep=sweep, factors={"model.dropout": [0.0, 0.1]}, baseline="none dropout=0.0"
    )
    trials = [arm.name for arm in sweep_plan(original).arms]
    assert len(trials) == 4 + 4 + 2 + 2
    assert trials[1] == "none dropout=0.0 learning_rate=0.1 weight_decay=0.1"
    assert trials[-1] == "layers dropout=0.1 learning_rate=0.2"
    bits = {(name, 7): 2.0 - trials.index(name) / 100 for name in trials}
    tuned = tuned_plan(original, bits)
    assert [arm.fields.get("training.weight_decay") for arm in tuned.arms] == [0.1, 0.1, None, None]
    assert plan(tmp_path, **plan_to_tables(original)) == original
    only = plan(tmp_path, arms=arms, sweep={"seeds": [7]}, baseline="none")
    assert [arm.name for arm in sweep_plan(only).arms] == ["none weight_decay=0.0", "none weight_decay=0.1", "layers"]
    tuned = tuned_plan(only, {(arm.name, 7): 1.0 for arm in sweep_plan(only).arms})
    assert tuned.arms[1].fields == {"objective.targets": 3}


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (3, r"\[arms.none.sweep\] of the plan is 3; it must be a table of lists of values"),
        ({}, r"\[arms.none.sweep\] of the plan has no fields"),
        ({"seeds": [7], "training.weight_decay": [0.1]}, r"\[arms.none.sweep\] of the plan has seeds; .* in \[sweep\]"),
        ({"training.rate": [0.1]}, "sets the unknown field 'training.rate'"),
        ({"training.weight_decay": 0.1}, "swept field of arm 'none', 'training.weight_decay' of the plan is 0.1"),
        ({"training.learning_rate": [0.1]}, r"tunes training.learning_rate, which \[arms.none.sweep\] sets"),
        ({"objective.intermediate": [True]}, "arm 'none' of the plan sets and tunes objective.intermediate"),
    ],
)
def test_wrong_sweeps_of_an_arm(tmp_path, own, message):
    with pytest.raises(UserError, match=message):
        plan(tmp_path, arms={"none": {"objective.intermediate": False, "sweep": own}, "layers": {}})


def test_the_budget_may_be_tuned(tmp_path):
    fields = {name: value for name, value in TABLES["set"].items() if name != "training.steps"}
    tuned = plan(tmp_path, set=fields, sweep={"seeds": [7], "training.steps": [5, 6]})
    assert [arm.name for arm in sweep_plan(tuned).arms][:2] == ["none steps=5", "none steps=6"]
    with pytest.raises(UserError, match="has no budget"):
        plan(tmp_path, set=fields)


def test_a_sweep_of_an_arm_needs_seeds(tmp_path):
    with pytest.raises(UserError, match=r"\[sweep\] of the plan has no seeds"):
        plan(tmp_path, arms={"none": {"sweep": {"training.weight_decay": [0.1]}}}, sweep={})


def test_values_with_an_unfinished_run_are_not_chosen(tmp_path):
    finished = scores({"none": 0.2, "layers": 0.3})
    del finished[name("none", 0.2), 8]
    del finished[name("none", 0.1), 7]
    assert tuned_plan(plan(tmp_path), finished).arms[0].fields["training.learning_rate"] == 0.3
    with pytest.raises(UserError, match="arm 'layers' has no values in the sweep"):
        tuned_plan(plan(tmp_path), {key: bits for key, bits in finished.items() if key[0].startswith("none")})


def test_the_first_of_equal_values_is_chosen(tmp_path):
    equal = dict.fromkeys(scores({"none": 0.2, "layers": 0.3}), 2.0)
    assert tuned_plan(plan(tmp_path), equal).arms[1].fields["training.learning_rate"] == 0.1


def test_a_value_at_the_edge_of_the_sweep_is_reported(tmp_path):
    original = plan(tmp_path)
    notes = values_at_edge(original, tuned_plan(original, scores({"none": 0.2, "layers": 0.3})))
    assert notes == [
        "arm 'layers': the best training.learning_rate, 0.3, is the highest of the sweep; a higher one may be better"
    ]
    notes = values_at_edge(original, tuned_plan(original, scores({"none": 0.1, "layers": 0.2})))
    assert notes == [
        "arm 'none': the best training.learning_rate, 0.1, is the lowest of the sweep; a lower one may be better"
    ]


def test_an_edge_is_written_as_a_plan_has_it(tmp_path):
    original = plan(tmp_path, sweep={"seeds": [7], "training.log_every": [1, 2, 1_234_567]})
    trials = sweep_plan(original).arms
    bits = {(arm.name, 7): 2.0 - arm.fields["training.log_every"] / 1e7 for arm in trials}
    assert "1234567, is the highest" in values_at_edge(original, tuned_plan(original, bits))[0]


def test_a_plan_with_a_sweep_survives_writing_and_reading(tmp_path):
    original = plan(tmp_path)
    assert plan(tmp_path, **plan_to_tables(original)) == original
    assert dataclasses.replace(original, sweep=None) == plan(tmp_path, sweep={})


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"training.learning_rate": [0.1]}, r"\[sweep\] of the plan has no seeds"),
        ({"seeds": [7]}, r"\[sweep\] of the plan has no fields"),
        ({"seeds": [1], "training.learning_rate": [0.1]}, "has the seed 1, which is one of the plan's seeds"),
        ({"seeds": 3, "training.learning_rate": [0.1]}, "has the seed 0, which is one of the plan's seeds"),
        ({"seeds": [], "training.learning_rate": [0.1]}, r"seeds of \[sweep\] is \[\]"),
        ({"seeds": [7, 7], "training.learning_rate": [0.1]}, r"\[sweep\] has the seed 7 twice"),
        ({"seeds": [7], "training.learning_rate": 0.1}, "swept field 'training.learning_rate' of the plan is 0.1"),
        ({"seeds": [7], "training.learning_rate": []}, "must be a list of values"),
        ({"seeds": [7], "training.learning_rate": [0.1, 0.1]}, "has the value 0.1 twice"),
        ({"seeds": [7], "training.learning_rate": ["fast"]}, "training.learning_rate"),
        ({"seeds": [7], "training.learning_rate": [-1.0]}, "training.learning_rate"),
        ({"seeds": [7], "training.rate": [0.1]}, r"\[sweep\] of the plan sets the unknown field 'training.rate'"),
        ({"seeds": [7], "training.seed": [3]}, "training.seed"),
        ({"seeds": [7], "training.steps": [5, 6]}, r"tunes training.steps, which \[set\] or --set sets"),
        ({"seeds": [7], "text.test": [0.0, 100.0]}, "tunes text.test of arm 'none', so its runs would be scored on"),
        (
            {"seeds": [7], "training.initial_run": ["a/b"]},
            "the sweep of the plan: the arm's name 'none initial_run=a/b'",
        ),
        ({"seeds": [7], "objective.intermediate": [True]}, "tunes objective.intermediate, which arm 'none' sets"),
    ],
)
def test_wrong_sweeps(tmp_path, sweep, message):
    with pytest.raises(UserError, match=message):
        plan(tmp_path, sweep=sweep)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "x" * 97}, "the sweep of the plan: the plan's name 'x{97}-sweep' cannot name a directory"),
        ({"arms": {"a" * 90: {}}, "baseline": "a" * 90}, "the sweep of the plan: the arm's name 'a{90} learning_rate"),
        ({"arms": {"語" * 70: {}}, "baseline": "語" * 70}, "the arm's name '語{70}' .* 100 characters and 200 bytes"),
        ({"arms": {"語" * 50: {}}, "baseline": "語" * 50}, None),
    ],
)
def test_names_that_are_too_long_for_a_directory(tmp_path, changes, message):
    if message is None:
        assert len(sweep_plan(plan(tmp_path, **changes)).arms) == 6
        return
    with pytest.raises(UserError, match=message):
        plan(tmp_path, **changes)


def test_a_sweep_that_is_no_table(tmp_path):
    with pytest.raises(UserError, match=r"sweep of the plan is 3; it must be a table, \[sweep\]"):
        plan(tmp_path, sweep=3)


def test_as_many_trials_as_a_plan_may_have(tmp_path):
    rates = [n / 10_000 for n in range(1, 600)]
    with pytest.raises(UserError, match="the plan has 1,198 arms; it may have at most 1,000"):
        plan(tmp_path, sweep={"seeds": [7], "training.learning_rate": rates})
