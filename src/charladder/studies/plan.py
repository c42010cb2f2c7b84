"""A plan: which runs are to be compared, and by what rule; read from TOML and checked before anything starts."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from charladder.errors import UserError, suggest_names
from charladder.input_files import parse_toml, read_bytes
from charladder.recipe import (
    SECTIONS,
    Recipe,
    RecipeFields,
    convert_value,
    field_types,
    load_recipe_fields,
    resolve,
    shape_fields,
    suggest_field,
)
from charladder.text.sources import STDIN

_PLAN_KEYS = "name", "question", "rule", "base", "data", "seeds", "baseline", "set", "arms", "factors", "contrasts"
BUDGET_FIELDS = "training.minutes", "training.steps", "training.characters"
_RESERVED_FIELDS = {
    "training.seed": "the plan's `seeds`",
    "text.data": "the plan's `data`",
    **dict.fromkeys(("text.characters", "text.sha256", "text.files", "text.letters"), "the data itself"),
}
MAX_ARMS = 1000
MAX_NAME_CHARACTERS = 100  # of an arm, so that a run's folder and log have names that every file system takes


@dataclass(frozen=True)
class Arm:
    """One way of training: `fields`, by dotted name, over those that all arms share."""

    name: str
    fields: RecipeFields


@dataclass(frozen=True)
class Contrast:
    """A question to several arms: the sum of the `plus` less the sum of the `minus`, seed by seed."""

    name: str
    plus: tuple[str, ...]
    minus: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Every arm is trained with every seed: from the recipe `base` with `fields` set, on `data`, compared with the arm
    `baseline`. `question` and `rule` stand at the head of the report, `contrasts` are tests besides those against the
    baseline."""

    name: str
    question: str
    rule: str
    base: str
    data: tuple[str, ...]
    fields: RecipeFields
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    baseline: str
    contrasts: tuple[Contrast, ...] = ()


def run_directory_name(arm: str, seed: int) -> str:
    """The run directory of an arm and a seed, in the plan's folder."""
    return f"{arm}-seed{seed}"


def list_bundled_plans() -> list[str]:
    """The plans that come with the package."""
    folder = resources.files("charladder") / "studies" / "plans"
    return sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".toml"))


def read_plan(name_or_path: str | Path) -> Plan:
    """A plan by its name, or from a TOML file of one's own. Raises UserError where it cannot be carried
    out as it is."""
    name = str(name_or_path)
    if name in list_bundled_plans():
        data, folder = (resources.files("charladder") / "studies" / "plans" / f"{name}.toml").read_bytes(), None
    elif name.endswith(".toml"):
        try:
            data, folder = read_bytes(Path(name)), Path(name).parent
        except OSError as error:
            raise UserError(f"plan {name} cannot be read: {error.strerror}") from None
    else:
        raise UserError(
            f"there is no plan called {name!r}{suggest_names(name, list_bundled_plans())}; a file of yours ends "
            "in .toml"
        )
    tables = parse_toml(data, f"plan {name}")
    plan = _parse_plan(tables, Path(name).stem, folder)
    check_plan(plan)
    return plan


def _run_fields(plan: Plan, arm: Arm, seed: int) -> RecipeFields:
    """The fields that `arm` is trained with, over those of the base recipe: what `train` is given as options."""
    return {**plan.fields, **arm.fields, "training.seed": seed}


def training_options(plan: Plan, arm: Arm, seed: int) -> RecipeFields:
    """`settings_of`, with the shape that follows from them, so that it does not depend on the length of the text."""
    return {**_run_fields(plan, arm, seed), **shape_fields(resolve_recipe(plan, arm, seed))}


def resolve_recipe(plan: Plan, arm: Arm, seed: int) -> Recipe:
    """The whole recipe of one run, as `train` resolves it. Raises UserError where its fields contradict each other."""
    base = {name: value for name, value in load_recipe_fields(plan.base).items() if name not in BUDGET_FIELDS}
    return resolve({**base, **_run_fields(plan, arm, seed), "text.data": plan.data})


def differing_settings(plan: Plan) -> dict[str, dict[str, Any]]:
    """For each arm the resolved settings in which arms differ, by dotted name."""
    flat: dict[str, dict[str, Any]] = {}
    for arm in plan.arms:
        recipe = resolve_recipe(plan, arm, plan.seeds[0])
        flat[arm.name] = {
            f"{section}.{name}": value
            for section in SECTIONS
            for name, value in dataclasses.asdict(getattr(recipe, section)).items()
        }
    first = flat[plan.arms[0].name]
    differ = [name for name in first if any(fields[name] != first[name] for fields in flat.values())]
    return {arm: {name: fields[name] for name in differ} for arm, fields in flat.items()}


def plan_to_tables(plan: Plan) -> dict[str, Any]:
    """The plan as plan.toml has it: every arm by name, nothing left to defaults."""
    contrasts = {one.name: {"plus": list(one.plus), "minus": list(one.minus)} for one in plan.contrasts}
    return {
        "name": plan.name,
        "question": plan.question,
        "rule": plan.rule,
        "base": plan.base,
        "data": list(plan.data),
        "seeds": list(plan.seeds),
        "baseline": plan.baseline,
        "set": plan.fields,
        "arms": {arm.name: arm.fields for arm in plan.arms},
        **({"contrasts": contrasts} if contrasts else {}),
    }


def _parse_plan(tables: dict[str, Any], name: str, folder: Path | None) -> Plan:
    """The plan that TOML tables describe; a base recipe that is a file is looked for beside the plan."""
    for key in tables:
        if key not in _PLAN_KEYS:
            raise UserError(f"the plan has the unknown key {key!r}{suggest_names(key, _PLAN_KEYS)}")
    base = _get_string(tables, "base", "ladder")
    if base.endswith(".toml") and folder is not None:
        base = str(folder / base)
    arms = _parse_arms(_get_table(tables, "arms"), _get_table(tables, "factors"))
    data = tables.get("data", ["python"])
    return Plan(
        name=_get_string(tables, "name", name),
        question=_get_string(tables, "question", ""),
        rule=_get_string(tables, "rule", ""),
        base=base,
        data=convert_value("data", data, tuple[str, ...]),
        fields=parse_fields(_get_table(tables, "set"), "[set] of the plan"),
        arms=arms,
        seeds=parse_seeds(tables.get("seeds", 5)),
        baseline=_get_string(tables, "baseline", arms[0].name),
        contrasts=_parse_contrasts(_get_table(tables, "contrasts"), {arm.name for arm in arms}),
    )


def _parse_contrasts(tables: dict[str, Any], arms: set[str]) -> tuple[Contrast, ...]:
    """Contrasts by name, of arms that there are: as many are added as taken away, or it is no difference."""
    found = []
    for name, sides in tables.items():
        where = f"contrast {name!r} of the plan"
        if not isinstance(sides, dict) or set(sides) != {"plus", "minus"}:
            raise UserError(f"{where} must be a table with `plus` and `minus`, two lists of arms")
        plus, minus = (convert_value(f"{where}: {side}", sides[side], tuple[str, ...]) for side in ("plus", "minus"))
        for arm in (*plus, *minus):
            if arm not in arms:
                raise UserError(f"{where} has the unknown arm {arm!r}{suggest_names(arm, arms)}")
        if not plus or len(plus) != len(minus):
            raise UserError(f"{where} adds {len(plus)} arms and takes away {len(minus)}; give as many of both")
        found.append(Contrast(name, plus, minus))
    return tuple(found)


def _get_string(tables: dict[str, Any], key: str, default: str) -> str:
    value = tables.get(key, default)
    if not isinstance(value, str):
        raise UserError(f"{key} of the plan is {value!r}; it must be text")
    return value


def _get_table(tables: dict[str, Any], key: str) -> dict[str, Any]:
    value = tables.get(key, {})
    if not isinstance(value, dict):
        raise UserError(f"{key} of the plan is {value!r}; it must be a table, [{key}]")
    return value


def parse_seeds(value: Any) -> tuple[int, ...]:
    """Seeds as a list, or as their number: 3 is 0, 1, 2."""
    if type(value) is int and 1 <= value <= MAX_ARMS:
        return tuple(range(value))
    if not isinstance(value, list) or not value or any(type(seed) is not int or seed < 0 for seed in value):
        raise UserError(f"seeds of the plan is {value!r}; it must be a list of whole numbers, or how many there are")
    for seed in value:
        if value.count(seed) > 1:
            raise UserError(f"the plan has the seed {seed} twice, and a run is not repeated; leave one out")
    return tuple(value)


def _flatten(tables: dict[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    """Nested tables as dotted names."""
    for name, value in tables.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def parse_fields(tables: dict[str, Any], where: str) -> RecipeFields:
    """Recipe fields by dotted name, in their types."""
    return {name: _parse_field(name, value, where) for name, value in _flatten(tables)}


def _parse_field(name: str, value: Any, where: str) -> Any:
    """The value of one recipe field, in its type."""
    types = field_types()
    if name not in types:
        raise UserError(f"{where} sets the unknown field {name!r}{suggest_field(name)}")
    if name in _RESERVED_FIELDS:
        raise UserError(f"{where} sets {name}, which {_RESERVED_FIELDS[name]} says; leave it out")
    return convert_value(name, value, types[name])


def _parse_arms(named: dict[str, Any], factors: dict[str, Any]) -> tuple[Arm, ...]:
    """The arms by name, in every combination of the factors' values."""
    if not named and not factors:
        raise UserError("the plan has no arms; give each a table [arms.NAME], or lists of values in [factors]")
    for name, fields in named.items():
        if not isinstance(fields, dict):
            raise UserError(f"arm {name!r} of the plan is {fields!r}; it must be a table, [arms.{name}]")
    arms = [Arm(name, parse_fields(fields, f"arm {name!r} of the plan")) for name, fields in named.items()] or [
        Arm("", {})
    ]
    grid: dict[str, list[Any]] = {}
    for name, values in _flatten(factors):
        if not isinstance(values, list) or not values:
            raise UserError(f"factor {name!r} of the plan is {values!r}; it must be a list of values")
        grid[name] = [_parse_field(name, value, "[factors] of the plan") for value in values]
    if len(arms) * math.prod(len(values) for values in grid.values()) > MAX_ARMS:
        raise UserError(f"the plan has more than {MAX_ARMS:,} arms; leave out factors or values")
    short = [name.rpartition(".")[2] for name in grid]
    names = short if len(set(short)) == len(short) else list(grid)
    found = []
    for arm in arms:
        for values in itertools.product(*grid.values()):
            parts = [f"{name}={format_option_value(value)}" for name, value in zip(names, values, strict=True)]
            label = " ".join([arm.name, *parts] if arm.name else parts)
            found.append(Arm(label, {**arm.fields, **dict(zip(grid, values, strict=True))}))
    return tuple(found)


def format_option_value(value: Any) -> str:
    """A field's value as a command line takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_plan(plan: Plan) -> None:
    """Raises UserError, in one sentence, for a plan that cannot be carried out or would compare nothing."""
    _check_names(plan)
    if STDIN in plan.data:
        raise UserError("standard input can be read once only, and a plan has several runs; save it as a file")
    seen: dict[Recipe, str] = {}
    spelled: dict[str, Any] = {}  # of the first arm: how its text becomes characters
    for arm in plan.arms:
        _check_budget(plan, arm)
        try:
            recipe = resolve_recipe(plan, arm, plan.seeds[0])
            resolve_recipe(plan, arm, max(plan.seeds))
        except UserError as error:
            raise UserError(f"arm {arm.name!r} of the plan: {error}") from None
        for name in ("alphabet", "unknown", "encoding"):
            value = getattr(recipe.text, name)
            if spelled.setdefault(name, value) != value:
                raise UserError(
                    f"arms {plan.arms[0].name!r} and {arm.name!r} of the plan differ in text.{name}, so their bits per "
                    "character are of different characters and cannot be compared; make a plan for each"
                )
        if not recipe.text.valid > 0:
            raise UserError(f"arm {arm.name!r} of the plan has no valid part to be scored on; set text.valid above 0")
        step = recipe.training.batch * recipe.model.context
        if 0 < recipe.training.characters < step:
            raise UserError(
                f"arm {arm.name!r} of the plan has {recipe.training.characters:,} characters, fewer than one step of "
                f"{recipe.training.batch} windows of {recipe.model.context} reads ({step:,}); give it more"
            )
        if recipe in seen:
            raise UserError(
                f"arms {seen[recipe]!r} and {arm.name!r} of the plan are duplicate runs, for all their settings are "
                "the same; leave one out"
            )
        seen[recipe] = arm.name


def _check_names(plan: Plan) -> None:
    """Names that become those of folders, and the baseline."""
    for what, name in [("plan", plan.name), *(("arm", arm.name) for arm in plan.arms)]:
        if not re.fullmatch(r"\w([\w .,=+@-]*[\w+])?", name) or len(name) > MAX_NAME_CHARACTERS:
            raise UserError(
                f"the {what}'s name {name!r} cannot be that of a folder; use letters, digits and - _ . = + within it, "
                f"at most {MAX_NAME_CHARACTERS}"
            )
    names = [arm.name for arm in plan.arms]
    lowered = [name.casefold() for name in names]
    for name in names:
        if lowered.count(name.casefold()) > 1:
            raise UserError(f"two arms of the plan are called {name!r}, in capitals or not; rename one")
    if plan.baseline not in names:
        raise UserError(
            f"the plan's baseline {plan.baseline!r} is none of its arms{suggest_names(plan.baseline, names)}"
        )


def _check_budget(plan: Plan, arm: Arm) -> None:
    """An arm has one budget, and it is enough for a step."""
    fields = {**plan.fields, **arm.fields}
    budgets = [name for name in BUDGET_FIELDS if name in fields]
    if len(budgets) != 1:
        many = " and ".join(budgets) if budgets else "no budget"
        raise UserError(
            f"arm {arm.name!r} of the plan has {many}; a run has one budget: set one of {', '.join(BUDGET_FIELDS)}"
        )
    amount, least = fields[budgets[0]], 1 / 60 if budgets[0] == "training.minutes" else 1
    if not least <= amount < math.inf:
        raise UserError(
            f"arm {arm.name!r} of the plan has the budget {budgets[0]} = {amount:g}; it must be enough for a step: at "
            f"least {'a second' if least < 1 else '1'}"
        )
