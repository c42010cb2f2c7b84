"""Plans: what they say, and that a bad one is refused in one sentence before anything starts."""

import dataclasses
from pathlib import Path

import pytest
import tomli_w

from charladder.errors import UserError
from charladder.studies.directory import open_study_directory
from charladder.studies.plan import (
    Contrast,
    differing_settings,
    list_bundled_plans,
    plan_to_tables,
    read_plan,
    resolve_recipe,
    run_directory_name,
)

TINY = {"model.layers": 2, "model.width": 16, "model.context": 16, "training.batch": 2, "training.steps": 10}
TWO = {"none": {"objective.intermediate": False}, "layers": {"objective.intermediate": True}}


def written(place: Path, **changes) -> str:
    """A plan of two arms, as a file; None as a value leaves a key out."""
    tables = {"set": TINY, "arms": TWO, "seeds": 2} | changes
    path = place / "own.toml"
    path.write_text(tomli_w.dumps({key: value for key, value in tables.items() if value is not None}))
    return str(path)


def refused(place: Path, **changes) -> str:
    with pytest.raises(UserError) as caught:
        read_plan(written(place, **changes))
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_what_a_plan_says_and_what_it_leaves_to_defaults(tmp_path):
    plan = read_plan(written(tmp_path, seeds=[4, 7], question="Do layers help?"))
    assert (plan.name, plan.base, plan.data, plan.baseline) == ("own", "ladder", ("python",), "none")
    assert (plan.seeds, plan.question) == ((4, 7), "Do layers help?")
    assert [arm.name for arm in plan.arms] == ["none", "layers"]
    recipe = resolve_recipe(plan, plan.arms[0], 7)
    assert (recipe.training.steps, recipe.training.minutes, recipe.training.seed) == (10, 0, 7)
    assert not recipe.objective.intermediate
    assert run_directory_name("none", 7) == "none-seed7"
    assert read_plan(written(tmp_path)).seeds == (0, 1)


def test_nested_tables_and_dotted_names_say_the_same(tmp_path):
    nested = {"model": {"layers": 2, "width": 16, "context": 16}, "training": {"batch": 2, "steps": 10}}
    assert read_plan(written(tmp_path, set=nested)) == read_plan(written(tmp_path))


def test_factors_make_a_full_grid(tmp_path):
    factors = {"objective.targets": [1, 2, 4], "objective.intermediate": [True, False]}
    plan = read_plan(written(tmp_path, arms=None, factors=factors))
    assert len(plan.arms) == 6
    assert plan.arms[0].name == plan.baseline == "targets=1 intermediate=true"
    plan = read_plan(written(tmp_path, factors={"objective.targets": [1, 2]}))
    assert [arm.name for arm in plan.arms] == [
        "none targets=1",
        "none targets=2",
        "layers targets=1",
        "layers targets=2",
    ]
    same = {"objective.positions": ["all", "last"], "model.positions": ["rotary", "table"]}
    plan = read_plan(written(tmp_path, arms=None, factors=same))
    assert plan.arms[0].name == "objective.positions=all model.positions=rotary"


def test_an_arm_may_have_a_budget_of_its_own(tmp_path):
    plan = read_plan(written(tmp_path, arms={"short": {}, "long": {"training.steps": 20}}))
    assert [resolve_recipe(plan, arm, 0).training.steps for arm in plan.arms] == [10, 20]


def test_a_plan_is_read_again_from_what_is_written_of_it(tmp_path):
    plan = read_plan(written(tmp_path, factors={"objective.targets": [1, 2]}))
    again = tmp_path / "again.toml"
    again.write_text(tomli_w.dumps(plan_to_tables(plan)))
    assert read_plan(again) == plan


def test_contrasts_are_read_and_written_and_are_no_other_plan(tmp_path):
    asked = written(tmp_path, contrasts={"more": {"plus": ["layers"], "minus": ["none"]}})
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


def test_a_base_of_ones_own_lies_beside_the_plan(tmp_path):
    (tmp_path / "base.toml").write_text('recipe = "mine"\n[model]\nlayers = 3\n[training]\nminutes = 3\n')
    fields = {name: value for name, value in TINY.items() if name != "model.layers"}
    plan = read_plan(written(tmp_path, base="base.toml", set=fields))
    assert resolve_recipe(plan, plan.arms[0], 0).model.layers == 3


def test_differences_are_those_of_the_resolved_settings(tmp_path):
    plan = read_plan(written(tmp_path, arms={"a": {}, "b": {"model.width": 64}}))
    told = differing_settings(plan)
    assert told["a"]["model.width"] == 16
    assert told["b"]["model.feed_forward"] != told["a"]["model.feed_forward"]
    assert "objective.intermediate" not in told["a"]


@pytest.mark.parametrize("name", list_bundled_plans())
def test_our_own_plans_can_be_carried_out(name):
    assert len(read_plan(name).arms) > 1


def test_the_paper_has_the_rows_of_its_table():
    plan = read_plan("paper")
    assert [arm.name for arm in plan.arms] == [
        "all", "no-positions", "no-layers", "no-targets", "no-tables", "momentum", "sgd",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
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
        ({"factors": {"objective.targets": [2, 2]}}, "two arms of the plan are called"),
        ({"arms": {"a": {}, "A": {"objective.intermediate": False}}}, "two arms of the plan are called 'a'"),
        ({"arms": None}, "the plan has no arms"),
        ({"arms": {}}, "the plan has no arms"),
        ({"arms": {"a/b": {}}}, "'a/b' cannot be that of a folder"),
        ({"arms": {"..": {}}}, "cannot be that of a folder"),
        ({"arms": {"": {"objective.intermediate": False}}}, "cannot be that of a folder"),
        ({"name": "../up"}, "the plan's name '../up' cannot be that of a folder"),
        ({"name": 3}, "name of the plan is 3; it must be text"),
        ({"baseline": "non"}, "baseline 'non' is none of its arms; did you mean none?"),
        ({"base": "lader"}, "there is no recipe called 'lader'; did you mean ladder?"),
        ({"base": "gone.toml"}, "cannot be read"),
        ({"data": [3]}, "data is [3]; it must be a list of texts"),
        ({"data": ["-"]}, "standard input can be read once only"),
        ({"seeds": [1, 1]}, "the seed 1 twice"),
        ({"seeds": []}, "seeds of the plan is []"),
        ({"seeds": 0}, "seeds of the plan is 0"),
        ({"seeds": [-1]}, "seeds of the plan is [-1]"),
        ({"seeds": True}, "seeds of the plan is True"),
        ({"seeds": [1 << 63]}, "training.seed is 9223372036854775808"),
        ({"set": {**TINY, "training.seed": 3}}, "sets training.seed, which the plan's `seeds` says"),
        ({"factors": {"training.seed": [1, 2]}}, "sets training.seed"),
        ({"set": {**TINY, "text.data": ["x"]}}, "sets text.data, which the plan's `data` says"),
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
        ({"contrasts": {"a": {"plus": ["layers", "none"], "minus": ["none"]}}}, "adds 2 arms and takes away 1"),
        ({"contrasts": {"a": {"plus": ["none"], "minus": 3}}}, "contrast 'a' of the plan: minus is 3"),
        ({"contrasts": 3}, "it must be a table, [contrasts]"),
    ],
)  # fmt: skip
def test_a_bad_plan_is_refused_in_one_sentence(tmp_path, changes, said):
    assert said in refused(tmp_path, **changes)


def test_files_that_are_no_plans(tmp_path):
    (tmp_path / "bad.toml").write_text("seeds = = 3")
    for name, said in (
        (str(tmp_path / "bad.toml"), "is not valid TOML"),
        (str(tmp_path / "gone.toml"), "cannot be read"),
        ("papre", "did you mean paper?"),
    ):
        with pytest.raises(UserError, match=said.replace("?", r"\?")):
            read_plan(name)
