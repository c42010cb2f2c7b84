"""The plan of a study: arms, seeds and budget, the recipe of each run, and the checks of a plan."""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from charladder.errors import UserError, suggest_names
from charladder.recipe import SECTIONS, Recipe, RecipeFields, load_recipe_fields, resolve, shape_fields
from charladder.text.sources import STDIN

BUDGET_FIELDS = "training.minutes", "training.steps", "training.characters"
_MAX_ARMS = 1000
# Every file system takes such a name for a run directory and its log; most allow 255 bytes.
_MAX_NAME_CHARACTERS = 100
_MAX_NAME_BYTES = 200


@dataclass(frozen=True)
class Arm:
    """One way of training: recipe fields by dotted name, which override those of all arms."""

    name: str
    fields: RecipeFields


@dataclass(frozen=True)
class Contrast:
    """A test of several arms: the sum over `plus` minus the sum over `minus`, paired by seed."""

    name: str
    plus: tuple[str, ...]
    minus: tuple[str, ...]


@dataclass(frozen=True)
class Sweep:
    """Fields that are tuned for each arm.

    values: to try in every arm, by dotted name. values_of_arm: of further fields, by the name of the arm that alone
    tunes them. seeds: of the trials.
    """

    values: dict[str, tuple[Any, ...]]
    seeds: tuple[int, ...]
    values_of_arm: dict[str, dict[str, tuple[Any, ...]]] = dataclasses.field(default_factory=dict)

    def values_for(self, arm: str) -> dict[str, tuple[Any, ...]]:
        """All values to try in one arm, by dotted name."""
        return self.values | self.values_of_arm.get(arm, {})


@dataclass(frozen=True)
class Plan:
    """Runs to compare: every arm is trained with every seed.

    base, fields: a recipe by name or path, and the fields that all arms set in it. baseline: the arm that the others
    are compared with. contrasts: further tests. sweep: what is tuned for each arm before. question, rule: text for the
    report.
    """

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
    sweep: Sweep | None = None


def combine_arms(arms: Sequence[Arm], values: Mapping[str, Sequence[Any]]) -> tuple[Arm, ...]:
    """Every arm with every combination of the values, which are given by dotted name and become part of its name.
    Raises UserError for more than 1,000 arms."""
    if len(arms) * math.prod(len(several) for several in values.values()) > _MAX_ARMS:
        raise UserError(f"the plan has more than {_MAX_ARMS:,} arms; leave out factors or values")
    short = [name.rpartition(".")[2] for name in values]
    names = short if len(set(short)) == len(short) else list(values)
    combined = []
    for arm in arms:
        for chosen in itertools.product(*values.values()):
            parts = [f"{name}={format_option_value(value)}" for name, value in zip(names, chosen, strict=True)]
            label = " ".join([arm.name, *parts] if arm.name else parts)
            combined.append(Arm(label, {**arm.fields, **dict(zip(values, chosen, strict=True))}))
    return tuple(combined)


def run_directory_name(arm: str, seed: int) -> str:
    """The name of a run directory in the study's folder."""
    return f"{arm}-seed{seed}"


def _run_fields(plan: Plan, arm: Arm, seed: int) -> RecipeFields:
    """The fields that a run sets in the base recipe."""
    return {**plan.fields, **arm.fields, "training.seed": seed}


def training_options(plan: Plan, arm: Arm, seed: int) -> RecipeFields:
    """The fields of a run as options of `charladder train`.

    They include the shape of the network, which `train` would otherwise derive from the length of the text.
    """
    return {**_run_fields(plan, arm, seed), **shape_fields(resolve_recipe(plan, arm, seed))}


def resolve_recipe(plan: Plan, arm: Arm, seed: int) -> Recipe:
    """The complete recipe of one run, as `train` resolves it. Raises UserError for contradictory fields."""
    base = {name: value for name, value in load_recipe_fields(plan.base).items() if name not in BUDGET_FIELDS}
    return resolve({**base, **_run_fields(plan, arm, seed), "text.data": plan.data})


def differing_settings(plan: Plan) -> dict[str, dict[str, Any]]:
    """The resolved settings in which the arms differ: by arm, then by dotted name."""
    settings: dict[str, dict[str, Any]] = {}
    for arm in plan.arms:
        recipe = resolve_recipe(plan, arm, plan.seeds[0])
        settings[arm.name] = {
            f"{section}.{name}": value
            for section in SECTIONS
            for name, value in dataclasses.asdict(getattr(recipe, section)).items()
        }
    first = settings[plan.arms[0].name]
    differ = [name for name in first if any(fields[name] != first[name] for fields in settings.values())]
    return {arm: {name: fields[name] for name in differ} for arm, fields in settings.items()}


def format_option_value(value: Any) -> str:
    """The value of a field as the command line reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_plan(plan: Plan) -> None:
    """Raises UserError for a plan that cannot be trained or whose arms cannot be compared."""
    _check_names(plan)
    if len(plan.arms) > _MAX_ARMS:
        raise UserError(f"the plan has {len(plan.arms):,} arms; it may have at most {_MAX_ARMS:,}")
    if STDIN in plan.data:
        raise UserError("standard input can be read only once, and a plan has several runs; save it as a file")
    arm_of_recipe: dict[Recipe, str] = {}
    text_fields: dict[str, Any] = {}  # of the first arm
    for arm in plan.arms:
        _check_budget(plan, arm)
        try:
            recipe = resolve_recipe(plan, arm, plan.seeds[0])
            resolve_recipe(plan, arm, max(plan.seeds))
        except UserError as error:
            raise UserError(f"arm {arm.name!r} of the plan: {error}") from None
        for name in ("alphabet", "unknown", "encoding"):
            value = getattr(recipe.text, name)
            if text_fields.setdefault(name, value) != value:
                raise UserError(
                    f"arms {plan.arms[0].name!r} and {arm.name!r} of the plan differ in text.{name}, so their bits per "
                    "character count different characters and cannot be compared; make a plan for each"
                )
        if not recipe.text.valid > 0:
            raise UserError(f"arm {arm.name!r} of the plan has no valid part to score; set text.valid above 0")
        step = recipe.training.batch * recipe.model.context
        if 0 < recipe.training.characters < step:
            raise UserError(
                f"arm {arm.name!r} of the plan has {recipe.training.characters:,} characters, fewer than one step "
                f"({recipe.training.batch} windows of {recipe.model.context}: {step:,}); increase training.characters"
            )
        if recipe in arm_of_recipe:
            raise UserError(
                f"arms {arm_of_recipe[recipe]!r} and {arm.name!r} of the plan are duplicate runs, with the same "
                "settings; leave one out"
            )
        arm_of_recipe[recipe] = arm.name


def _check_names(plan: Plan) -> None:
    """Checks that names can be names of directories, that they differ, and that the baseline is an arm."""
    for what, name in [("plan", plan.name), *(("arm", arm.name) for arm in plan.arms)]:
        too_long = len(name) > _MAX_NAME_CHARACTERS or len(name.encode()) > _MAX_NAME_BYTES
        if not re.fullmatch(r"\w([\w .,=+@-]*[\w+])?", name) or too_long:
            raise UserError(
                f"the {what}'s name {name!r} cannot name a directory; use letters, digits and - _ . = + within it, at "
                f"most {_MAX_NAME_CHARACTERS} characters and {_MAX_NAME_BYTES} bytes"
            )
    names = [arm.name for arm in plan.arms]
    lowered = [name.casefold() for name in names]
    for name in names:
        if lowered.count(name.casefold()) > 1:
            raise UserError(f"two arms of the plan are called {name!r}, apart from upper and lower case; rename one")
    if plan.baseline not in names:
        raise UserError(
            f"the plan's baseline {plan.baseline!r} is none of its arms{suggest_names(plan.baseline, names)}"
        )


def _check_budget(plan: Plan, arm: Arm) -> None:
    """Checks that an arm has one budget, which is enough for a step."""
    fields = {**plan.fields, **arm.fields}
    budgets = [name for name in BUDGET_FIELDS if name in fields]
    if len(budgets) != 1:
        given = " and ".join(budgets) if budgets else "no budget"
        raise UserError(
            f"arm {arm.name!r} of the plan has {given}; a run has one budget: set one of {', '.join(BUDGET_FIELDS)}"
        )
    amount, minimum = fields[budgets[0]], 1 / 60 if budgets[0] == "training.minutes" else 1
    if not minimum <= amount < math.inf:
        raise UserError(
            f"arm {arm.name!r} of the plan has the budget {budgets[0]} = {amount:g}; it must be enough for a step: at "
            f"least {'a second' if minimum < 1 else '1'}"
        )
