"""Plans: reading, writing, and the sentences about invalid ones."""

import dataclasses
from pathlib import Path

import pytest
import tomli_w

from charladder.errors import UserError
from charladder.studies.directory import open_study_directory
from charladder.studies.plan import (
    Contrast,
    differing_settings,
    resolve_recipe,
    run_directory_name,
)
from charladder.studies.plan_file import list_bundled_plans, plan_to_tables, read_plan

TINY = {"model.layers": 2, "model.width": 16, "model.context": 16, "training.batch": 2, "training.steps": 10}
TWO = {"none": {"objective.intermediate": False}, "layers": {"objective.intermediate": True}}


def write_plan(place: Path, **changes) -> str:
    """Writes a plan of two arms; None as a value leaves a key out."""
    tables = {"set": TINY, "arms": TWO, "seeds": 2} | changes
    path = place / "own.toml"
    path.write_text(tomli_w.dumps({key: value for key, value in tables.items() if value is not None}))
    return str(path)


def plan_error(place: Path, **changes) -> str:
    with pytest.raises(UserError) as caught:
        read_plan(write_plan(place, **changes))
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_reads_a_plan_with_defaults(tmp_path):
    plan = read_plan(write_plan(tmp_path, seeds=[4, 7], question="Do layers help?"))
    assert (plan.name, plan.base, plan.data, plan.baseline) == ("own", "ladder", ("python",), "none")
    assert (plan.seeds, plan.question) == ((4, 7), "Do layers help?")
    assert [arm.name for arm in plan.arms] == ["none", "layers"]
    recipe = resolve_recipe(plan, plan.arms[0], 7)
    assert (recipe.training.steps, recipe.training.minutes, recipe.training.seed) == (10, 0, 7)
    assert not recipe.objective.intermediate
    assert run_directory_name("none", 7) == "none-seed7"
    assert read_plan(write_plan(tmp_path)).seeds == (0, 1)


def test_nested_tables_equal_dotted_names(tmp_path):
    nested = {"model": {"layers": 2, "width": 16, "context": 16}, "training": {"batch": 2, "steps": 10}}
    assert read_plan(write_plan(tmp_path, set=nested)) == read_plan(write_plan(tmp_path))


def test_factors_make_a_full_grid(tmp_path):
    factors = {"objective.targets": [1, 2, 4], "objective.intermediate": [True, False]}
    plan = read_plan(write_plan(tmp_path, arms=None, factors=factors))
    assert len(plan.arms) == 6
    assert plan.arms[0].name == plan.baseline == "targets=1 intermediate=true"
    plan = read_plan(write_plan(tmp_path, factors={"objective.targets": [1, 2]}))
    assert [arm.name for arm in plan.arms] == [
        "none targets=1",
        "none targets=2",
        "layers targets=1",
        "layers targets=2",
    ]
    same = {"objective.positions": ["all", "last"], "model.positions": ["rotary", "table"]}
    plan = read_plan(write_plan(tmp_path, arms=None, factors=same))
    assert plan.arms[0].name == "objective.positions=all model.positions=rotary"


def test_an_arm_can_override_the_budget(tmp_path):
    plan = read_plan(write_plan(tmp_path, arms={"short": {}, "long": {"training.steps": 20}}))
    assert [resolve_recipe(plan, arm, 0).training.steps for arm in plan.arms] == [10, 20]


def test_plan_round_trip(tmp_path):
    plan = read_plan(write_plan(tmp_path, factors={"objective.targets": [1, 2]}))
    again = tmp_path / "again.toml"
    again.write_text(tomli_w.dumps(plan_to_tables(plan)))
    assert read_plan(again) == plan


def test_contrasts_round_trip_and_can_change_in_a_study_directory(tmp_path):
    asked = write_plan(tmp_path, contrasts={"more": {"plus": ["layers"], "minus": ["none"]}})
    plan = read_plan(asked)
    assert plan.contrasts == (Contrast("more", ("layers",), ("none",)),)
    again = tmp_path / "again.toml"
    again.write_text(tomli_w.dumps(plan_to_tables(plan)))
    assert read_plan(again) == plan
    for first, second in (
        (plan, dataclasses.replace(plan, contrasts=())),
        (dataclasses.replace(plan, contrasts=()), plan),
    ):
        folder = tmp_path / f"folder{len(first.contrasts)}"
        with open_study_directory(first, folder):
            pass
        with open_study_directory(second, folder):
            pass


def test_path_of_a_base_recipe_is_relative_to_the_plan(tmp_path):
    (tmp_path / "base.toml").write_text('recipe = "mine"\n[model]\nlayers = 3\n[training]\nminutes = 3\n')
    fields = {name: value for name, value in TINY.items() if name != "model.layers"}
    plan = read_plan(write_plan(tmp_path, base="base.toml", set=fields))
    assert resolve_recipe(plan, plan.arms[0], 0).model.layers == 3


def test_differing_settings_are_resolved(tmp_path):
    plan = read_plan(write_plan(tmp_path, arms={"a": {}, "b": {"model.width": 64}}))
    settings = differing_settings(plan)
    assert settings["a"]["model.width"] == 16
    assert settings["b"]["model.feed_forward"] != settings["a"]["model.feed_forward"]
    assert "objective.intermediate" not in settings["a"]


@pytest.mark.parametrize("name", list_bundled_plans())
def test_bundled_plans_are_valid(name):
    assert len(read_plan(name).arms) > 1


def test_paper_plan_has_the_rows_of_the_table():
    plan = read_plan("paper")
    assert [arm.name for arm in plan.arms] == [
        "all", "no-positions", "no-layers", "no-targets", "no-tables", "momentum", "sgd",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": 3}, "unknown key 'sedes'; did you mean seeds?"),
        ({"set": {**TINY, "model.widht": 3}}, "unknown field 'model.widht'; did you mean model.width?"),
        ({"arms": {"a": {"objective.layer": True}, "b": {}}}, "arm 'a' of the plan sets the unknown field"),
        ({"factors": {"objective.target": [1]}}, "did you mean objective.targets?"),
        ({"factors": {"objective.targets": 2}}, "must be a list of values"),
        ({"factors": {"objective.targets": []}}, "must be a list of values"),
        ({"factors": {"objective.targets": [1, "two"]}}, "objective.targets is 'two'; it must be a whole number"),
        ({"factors": {"training.skips": list(range(600))}}, "more than 1,000 arms"),
        ({"set": {**TINY, "model.layers": 2.5}}, "model.layers is 2.5; it must be a whole number"),
        ({"arms": {"a": {"objective.intermediate": "perhaps"}}}, "must be true or false"),
        ({"arms": {"a": 3}}, "it must be a table"),
        ({"arms": 3}, "it must be a table, [arms]"),
        ({"arms": {"a": {}, "b": {}}}, "arms 'a' and 'b' of the plan are duplicate runs"),
        ({"arms": {"a": {}, "b": {"objective.intermediate": True}}}, "duplicate runs"),
        ({"factors": {"objective.intermediate": [True, False]}}, "duplicate runs"),
        ({"factors": {"objective.targets": [2, 2]}}, "has the value 2 twice; leave one out"),
        ({"arms": {"a": {}, "A": {"objective.intermediate": False}}}, "two arms of the plan are called 'a'"),
        ({"arms": None}, "the plan has no arms"),
        ({"arms": {}}, "the plan has no arms"),
        ({"arms": {"a/b": {}}}, "'a/b' cannot name a directory"),
        ({"arms": {"..": {}}}, "cannot name a directory"),
        ({"arms": {"": {"objective.intermediate": False}}}, "cannot name a directory"),
        ({"name": "../up"}, "the plan's name '../up' cannot name a directory"),
        ({"name": 3}, "name of the plan is 3; it must be text"),
        ({"baseline": "non"}, "baseline 'non' is none of its arms; did you mean none?"),
        ({"base": "lader"}, "there is no recipe called 'lader'; did you mean ladder?"),
        ({"base": "gone.toml"}, "cannot be read"),
        ({"data": [3]}, "data is [3]; it must be a list of texts"),
        ({"data": ["-"]}, "standard input can be read only once"),
        ({"seeds": [1, 1]}, "the seed 1 twice"),
        ({"seeds": []}, "seeds of the plan is []"),
        ({"seeds": 0}, "seeds of the plan is 0"),
        ({"seeds": [-1]}, "seeds of the plan is [-1]"),
        ({"seeds": True}, "seeds of the plan is True"),
        ({"seeds": [1 << 63]}, "training.seed is 9223372036854775808"),
        ({"set": {**TINY, "training.seed": 3}}, "sets training.seed, which is set by the plan's `seeds`"),
        ({"factors": {"training.seed": [1, 2]}}, "sets training.seed"),
        ({"set": {**TINY, "text.data": ["x"]}}, "sets text.data, which is set by the plan's `data`"),
        ({"set": {**TINY, "training.minutes": 1}}, "training.minutes and training.steps; a run has one budget"),
        ({"set": {"model.layers": 2}}, "no budget"),
        ({"set": {**TINY, "training.steps": 0}}, "training.steps = 0; it must be enough for a step"),
        ({"set": {"training.minutes": 0.001}}, "training.minutes = 0.001; it must be enough for a step"),
        ({"set": {"training.minutes": float("nan")}}, "must be enough for a step"),
        ({"set": {"training.minutes": float("inf")}}, "must be enough for a step"),
        ({"set": {"training.characters": 500, "training.batch": 4, "model.context": 128}}, "fewer than one step"),
        ({"set": {**TINY, "model.attention_heads": 3}}, "arm 'none' of the plan: model.width 16 is not divisible"),
        ({"set": {**TINY, "text.valid": 0}}, "no valid part"),
        ({"factors": {"text.alphabet": ["bytes", "letters"]}}, "differ in text.alphabet, so their bits per character"),
        ({"factors": {"text.unknown": ["replace", "drop"]}}, "differ in text.unknown"),
        ({"arms": {"a": {}, "b": {"text.encoding": "latin-1"}}}, "'a' and 'b' of the plan differ in text.encoding"),
        ({"contrasts": {"a": {"plus": ["none"]}}}, "contrast 'a' of the plan must be a table with `plus` and `minus`"),
        ({"contrasts": {"a": {"plus": ["layer"], "minus": ["none"]}}}, "unknown arm 'layer'; did you mean layers?"),
        ({"contrasts": {"a": {"plus": ["layers", "none"], "minus": ["none"]}}}, "adds 2 arms and subtracts 1"),
        ({"contrasts": {"a": {"plus": ["none"], "minus": 3}}}, "contrast 'a' of the plan: minus is 3"),
        ({"contrasts": 3}, "it must be a table, [contrasts]"),
    ],
)  # fmt: skip
def test_an_invalid_plan_is_one_sentence(tmp_path, changes, message):
    assert message in plan_error(tmp_path, **changes)


def test_unreadable_and_unknown_plans(tmp_path):
    (tmp_path / "bad.toml").write_text("seeds = = 3")
    for name, said in (
        (str(tmp_path / "bad.toml"), "is not valid TOML"),
        (str(tmp_path / "gone.toml"), "cannot be read"),
        ("papre", "did you mean paper?"),
    ):
        with pytest.raises(UserError, match=said.replace("?", r"\?")):
            read_plan(name)
