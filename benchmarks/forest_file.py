"""NAME.toml beside the tables of runs: what the forest plot NAME compares.

title = "Do intermediate losses help?"
x_label = "bits per character, minus those of one loss"   # under the plot
tables = ["modern", "modern-c"]    # CSVs (default: NAME)
baseline = "none"                  # every other arm minus this one; `arms` names some of them
arms = ["layers", "targets"]
effect = 0.02                      # the difference that would have mattered
group_by = "comparison"            # or "text" (the default); or a table [groups]
meta_analysis = true               # the mean of each comparison over the texts
holm = "group"                     # the family of Holm's correction: "figure" (the default) or "group"
x_limits = [-0.1, 0.1]

[comparisons]                      # besides those with the baseline: sums over arms
"post, 12 layers" = { plus = ["post-12-with"], minus = ["post-12"], effect = 0.05 }

[groups]                           # titles, and their comparisons
"norm after the addition" = ["post, 12 layers"]

A table [norms] is of the figure of gradient norms (benchmarks/norms_file.py).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charladder.errors import UserError, suggest_names
from charladder.input_files import parse_toml, read_bytes
from charladder.recipe import convert_value
from charladder.studies.plan import Contrast

BY_TEXT, BY_COMPARISON, WHOLE_FIGURE, EACH_GROUP = "text", "comparison", "figure", "group"
_KEYS = (
    "title", "x_label", "tables", "baseline", "arms", "effect", "group_by", "meta_analysis", "holm", "x_limits",
    "comparisons", "groups", "norms",
)  # fmt: skip


@dataclass(frozen=True)
class ForestFile:
    """What a forest plot compares, as the head of this file describes.

    arms: compared with the baseline; empty for all. effects: that would have mattered, by comparison. groups: titles
    and their comparisons; empty where `group_by` groups.
    """

    name: str
    title: str
    x_label: str
    tables: tuple[str, ...]
    baseline: str | None
    arms: tuple[str, ...]
    effect: float | None
    comparisons: tuple[Contrast, ...]
    effects: dict[str, float]
    groups: dict[str, tuple[str, ...]]
    group_by: str
    meta_analysis: bool
    holm: str
    x_limits: tuple[float, float] | None

    def effect_of(self, comparison: str) -> float | None:
        return self.effects.get(comparison, self.effect)


def read_forest_file(folder: Path, name: str) -> ForestFile:
    """Reads and checks NAME.toml. Raises UserError for a missing or invalid file."""
    path = folder / f"{name}.toml"
    try:
        tables = parse_toml(read_bytes(path), str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; it says what the plot compares") from None
    try:
        return _parse(name, tables)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _parse(name: str, tables: dict[str, Any]) -> ForestFile:
    for key in tables:
        if key not in _KEYS:
            raise UserError(f"the key {key!r} is unknown{suggest_names(key, _KEYS)}")
    comparisons, effects = _parse_comparisons(_get_table(tables, "comparisons"))
    groups = {
        title: convert_value(f"group {title!r}", names, tuple[str, ...])
        for title, names in _get_table(tables, "groups").items()
    }
    baseline = convert_value("baseline", tables["baseline"], str) if "baseline" in tables else None
    if baseline is None and not comparisons:
        raise UserError("nothing is compared; give a baseline, or a table [comparisons]")
    if baseline is None and "arms" in tables:
        raise UserError("arms are compared with a baseline, and none is given; give one")
    _check_once(groups)
    arms = convert_value("arms", tables["arms"], tuple[str, ...]) if "arms" in tables else ()
    if baseline in arms:
        raise UserError(f"arms has the baseline {baseline!r}, which is compared with itself; leave it out")
    if groups and "group_by" in tables:
        raise UserError("group_by and [groups] contradict each other; leave one out")
    return ForestFile(
        name=name,
        title=convert_value("title", tables.get("title", name), str),
        x_label=convert_value("x_label", tables.get("x_label", "difference in bits per character"), str),
        tables=convert_value("tables", tables.get("tables", name), tuple[str, ...]),
        baseline=baseline,
        arms=arms,
        effect=_parse_effect("effect", tables["effect"]) if "effect" in tables else None,
        comparisons=comparisons,
        effects=effects,
        groups=groups,
        group_by=_choose(tables, "group_by", BY_TEXT, BY_COMPARISON),
        meta_analysis=convert_value("meta_analysis", tables.get("meta_analysis", False), bool),
        holm=_choose(tables, "holm", WHOLE_FIGURE, EACH_GROUP),
        x_limits=_parse_limits(tables["x_limits"]) if "x_limits" in tables else None,
    )


def _check_once(groups: dict[str, tuple[str, ...]]) -> None:
    """Raises UserError for a comparison that groups have twice: Holm's correction would count it twice."""
    seen: set[str] = set()
    for title, names in groups.items():
        for name in names:
            if name in seen:
                raise UserError(
                    f"group {title!r} has the comparison {name!r}, which [groups] had before; leave one out"
                )
            seen.add(name)


def _parse_comparisons(tables: dict[str, Any]) -> tuple[tuple[Contrast, ...], dict[str, float]]:
    """The comparisons, and the effects of those that have one of their own."""
    comparisons, effects = [], {}
    for name, sides in tables.items():
        where = f"comparison {name!r}"
        if not isinstance(sides, dict) or not {"plus", "minus"} <= set(sides) <= {"plus", "minus", "effect"}:
            raise UserError(f"{where} must be a table with `plus` and `minus`, two lists of arms, and perhaps `effect`")
        plus, minus = (convert_value(f"{where}: {side}", sides[side], tuple[str, ...]) for side in ("plus", "minus"))
        if len(plus) != len(minus):
            raise UserError(f"{where} adds {len(plus)} arms and subtracts {len(minus)}; give as many of both")
        comparisons.append(Contrast(name, plus, minus))
        if "effect" in sides:
            effects[name] = _parse_effect(f"{where}: effect", sides["effect"])
    return tuple(comparisons), effects


def _parse_effect(name: str, value: Any) -> float:
    effect = convert_value(name, value, float)
    if not 0 < effect < math.inf:
        raise UserError(f"{name} is {value!r}; it must be a number above 0, for differences of both signs")
    return effect


def _parse_limits(value: Any) -> tuple[float, float]:
    if isinstance(value, list) and len(value) == 2:
        low, high = (convert_value("x_limits", one, float) for one in value)
        if -math.inf < low < high < math.inf:
            return low, high
    raise UserError(f"x_limits is {value!r}; it must be two rising numbers")


def _choose(tables: dict[str, Any], key: str, default: str, other: str) -> str:
    value = tables.get(key, default)
    if value not in (default, other):
        raise UserError(f"{key} is {value!r}; it must be {default!r} or {other!r}")
    return value


def _get_table(tables: dict[str, Any], key: str) -> dict[str, Any]:
    value = tables.get(key, {})
    if not isinstance(value, dict):
        raise UserError(f"{key} is {value!r}; it must be a table, [{key}]")
    return value
