"""Plans as TOML: the plans of the package and the files of the user."""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from charladder.errors import UserError, suggest_names
from charladder.input_files import parse_toml, read_bytes
from charladder.recipe import RecipeFields, convert_value, field_types, suggest_field
from charladder.studies.plan import Arm, Contrast, Plan, Sweep, combine_arms
from charladder.studies.sweep import check_plan_and_sweep

_PLAN_KEYS = (
    "name",
    "question",
    "rule",
    "base",
    "data",
    "seeds",
    "baseline",
    "set",
    "arms",
    "factors",
    "contrasts",
    "sweep",
)
_RESERVED_FIELDS = {
    "training.seed": "the plan's `seeds`",
    "text.data": "the plan's `data`",
    **dict.fromkeys(("text.characters", "text.sha256", "text.files", "text.letters"), "the data itself"),
}
_MAX_SEEDS = 1000


def list_bundled_plans() -> list[str]:
    """Names of the plans that are part of the package."""
    folder = resources.files("charladder") / "studies" / "plans"
    return sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".toml"))


def read_plan(name_or_path: str | Path) -> Plan:
    """Reads and checks a plan of the package by its name, or a TOML file. Raises UserError for an invalid plan."""
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
            f"there is no plan called {name!r}{suggest_names(name, list_bundled_plans())}; the name of a "
            "plan file ends in .toml"
        )
    tables = parse_toml(data, f"plan {name}")
    plan = _parse_plan(tables, Path(name).stem, folder)
    check_plan_and_sweep(plan)
    return plan


def plan_to_tables(plan: Plan) -> dict[str, Any]:
    """The plan as the tables of plan.toml, with every arm and without defaults."""
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
        "arms": {arm.name: _arm_to_table(plan, arm) for arm in plan.arms},
        **({"contrasts": contrasts} if contrasts else {}),
        **({"sweep": {"seeds": list(sweep.seeds), **sweep.values}} if (sweep := plan.sweep) else {}),
    }


def _arm_to_table(plan: Plan, arm: Arm) -> dict[str, Any]:
    own = plan.sweep.values_of_arm.get(arm.name) if plan.sweep else None
    return {**arm.fields, "sweep": own} if own else arm.fields


def _parse_plan(tables: dict[str, Any], name: str, folder: Path | None) -> Plan:
    """The plan in TOML tables. The path of a base recipe is relative to `folder`, that of the plan."""
    for key in tables:
        if key not in _PLAN_KEYS:
            raise UserError(f"the plan has the unknown key {key!r}{suggest_names(key, _PLAN_KEYS)}")
    base = _get_string(tables, "base", "ladder")
    if base.endswith(".toml") and folder is not None:
        base = str(folder / base)
    arms, values_of_arm = _parse_arms(_get_table(tables, "arms"), _get_table(tables, "factors"))
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
        sweep=_parse_sweep(_get_table(tables, "sweep"), values_of_arm),
    )


def parse_seeds(value: Any, study: str = "the plan") -> tuple[int, ...]:
    """Seeds from a list, or from their number: 3 gives 0, 1, 2. study: what they are the seeds of, for messages."""
    if type(value) is int and 1 <= value <= _MAX_SEEDS:
        return tuple(range(value))
    if not isinstance(value, list) or not value or any(type(seed) is not int or seed < 0 for seed in value):
        raise UserError(f"seeds of {study} is {value!r}; it must be a list of whole numbers, or their number")
    for seed in value:
        if value.count(seed) > 1:
            raise UserError(f"{study} has the seed {seed} twice; leave one out")
    return tuple(value)


def parse_fields(tables: dict[str, Any], where: str) -> RecipeFields:
    """Recipe fields by dotted name, converted to their types. where: the place, for error messages."""
    return {name: _parse_field(name, value, where) for name, value in _flatten(tables)}


_ValuesOfArm = dict[str, dict[str, tuple[Any, ...]]]


def _parse_arms(named: dict[str, Any], factors: dict[str, Any]) -> tuple[tuple[Arm, ...], _ValuesOfArm]:
    """Every named arm with every combination of the factors' values, and the values that only single arms tune."""
    if not named and not factors:
        raise UserError("the plan has no arms; give each a table [arms.NAME], or lists of values in [factors]")
    for name, fields in named.items():
        if not isinstance(fields, dict):
            raise UserError(f"arm {name!r} of the plan is {fields!r}; it must be a table, [arms.{name}]")
    arms, values_of_arm = [], {}
    for name, tables in named.items():
        fields = {key: value for key, value in tables.items() if key != "sweep"}
        arms.append(Arm(name, parse_fields(fields, f"arm {name!r} of the plan")))
        if "sweep" in tables:
            where = f"[arms.{name}.sweep] of the plan"
            if not isinstance(tables["sweep"], dict):
                raise UserError(f"{where} is {tables['sweep']!r}; it must be a table of lists of values")
            if "seeds" in tables["sweep"]:
                raise UserError(f"{where} has seeds; all arms are tuned on those in [sweep], so put them there")
            if not tables["sweep"]:
                raise UserError(f"{where} has no fields; give it lists of values, or leave it out")
            values_of_arm[name] = _parse_values(tables["sweep"], f"swept field of arm {name!r},", where)
    grid = _parse_values(factors, "factor", "[factors] of the plan")
    combined = combine_arms(arms or [Arm("", {})], grid)
    if not values_of_arm:
        return combined, {}
    combinations = len(combined) // len(arms)  # of a named arm; they follow one another
    owners = [arm.name for arm in arms for _ in range(combinations)]
    tuned = [(arm.name, owner) for arm, owner in zip(combined, owners, strict=True) if owner in values_of_arm]
    return combined, {name: values_of_arm[owner] for name, owner in tuned}


def _parse_values(tables: dict[str, Any], what: str, where: str) -> dict[str, tuple[Any, ...]]:
    """Lists of values by dotted name."""
    grid = {}
    for name, values in _flatten(tables):
        if not isinstance(values, list) or not values:
            raise UserError(f"{what} {name!r} of the plan is {values!r}; it must be a list of values")
        for value in values:
            if values.count(value) > 1:
                raise UserError(f"{what} {name!r} of the plan has the value {value!r} twice; leave one out")
        grid[name] = tuple(_parse_field(name, value, where) for value in values)
    return grid


def _parse_sweep(tables: dict[str, Any], values_of_arm: _ValuesOfArm) -> Sweep | None:
    """The sweep: `seeds`, and lists of values by dotted name."""
    if not tables and not values_of_arm:
        return None
    values = {name: value for name, value in tables.items() if name != "seeds"}
    if "seeds" not in tables or not (values or values_of_arm):
        missing = "seeds" if "seeds" not in tables else "fields"
        raise UserError(
            f"[sweep] of the plan has no {missing}; give it `seeds`, which the plan's own seeds do not contain, and "
            "lists of values of the fields that are tuned for each arm"
        )
    common = _parse_values(values, "swept field", "[sweep] of the plan")
    return Sweep(common, parse_seeds(tables["seeds"], "[sweep]"), values_of_arm)


def _parse_contrasts(tables: dict[str, Any], arms: set[str]) -> tuple[Contrast, ...]:
    """Contrasts by name. Raises UserError for an unknown arm, or unless both sides have the same number of arms."""
    contrasts = []
    for name, sides in tables.items():
        where = f"contrast {name!r} of the plan"
        if not isinstance(sides, dict) or set(sides) != {"plus", "minus"}:
            raise UserError(f"{where} must be a table with `plus` and `minus`, two lists of arms")
        plus, minus = (convert_value(f"{where}: {side}", sides[side], tuple[str, ...]) for side in ("plus", "minus"))
        for arm in (*plus, *minus):
            if arm not in arms:
                raise UserError(f"{where} has the unknown arm {arm!r}{suggest_names(arm, arms)}")
        if not plus or len(plus) != len(minus):
            raise UserError(f"{where} adds {len(plus)} arms and subtracts {len(minus)}; give as many of both")
        contrasts.append(Contrast(name, plus, minus))
    return tuple(contrasts)


def _parse_field(name: str, value: Any, where: str) -> Any:
    """The value of one recipe field, converted to its type."""
    types = field_types()
    if name not in types:
        raise UserError(f"{where} sets the unknown field {name!r}{suggest_field(name)}")
    if name in _RESERVED_FIELDS:
        raise UserError(f"{where} sets {name}, which is set by {_RESERVED_FIELDS[name]}; leave it out")
    return convert_value(name, value, types[name])


def _flatten(tables: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested tables as dotted names."""
    for name, value in tables.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


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
