"""The numbers of a figure of gradient norms: means over seeds by arm, time of measurement and layer."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.norm_tables import FIRST, NORM_COLUMNS, THIRDS
from benchmarks.norms_file import NormsFile
from benchmarks.result_tables import Row, read_rows
from charladder.errors import UserError, suggest_names
from charladder.studies.plan import format_option_value

DEPTH = "model.layers"
_LATE = THIRDS[-1]
_TOLERANCE = 1e-3  # relative; one gradient that is computed in two ways differs by less

Place = tuple[str, str, str]  # the values of the settings of rows, columns and lines; "" without a setting
Settings = dict[str, dict[str, str]]  # values by arm and dotted name
Measured = dict[int, dict[int, float]]  # norms by seed and layer


@dataclass(frozen=True)
class Profile:
    """Norms of the layers 1 to L: mean, smallest and largest of `seeds` runs."""

    seeds: int
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class ArmNorms:
    """An arm of the figure.

    progress: of the first measurement, the largest of all seeds. first: of all losses; first_main: of the main loss
    alone. late: means over the last third of training. A profile is None where no run measured it.
    """

    name: str
    place: Place
    progress: float
    first: Profile
    first_main: Profile | None
    late: Profile | None

    @property
    def layers(self) -> int:
        return len(self.first.mean)

    @property
    def main_differs(self) -> bool:
        """Whether the main loss alone has other norms at the first measurement than all losses together."""
        if self.first_main is None:
            return False
        pairs = zip(self.first.mean, self.first_main.mean, strict=True)
        return any(not math.isclose(whole, alone, rel_tol=_TOLERANCE) for whole, alone in pairs)


@dataclass(frozen=True)
class DepthRatio:
    """The last layer's norm at the first measurement of a deep arm, divided by that of the shallowest like it."""

    shallow: ArmNorms
    deep: ArmNorms
    ratio: float | None


def read_arms(folder: Path, about: NormsFile) -> list[ArmNorms]:
    """The arms of a figure. Raises UserError for tables without norms, and for arms that have the same place."""
    paths = [folder / f"{table}-norms.csv" for table in about.tables]
    rows = [(path, row) for path in paths for row in _read_norms(path)]
    text = _choose_text(about, {row["text"] for _, row in rows})
    rows = [(path, row) for path, row in rows if row["text"] == text]
    found = list(dict.fromkeys(row["arm"] for _, row in rows))
    for arm in about.arms:
        if arm not in found:
            raise UserError(f"arms has {arm!r}, which has no norms on {text}{suggest_names(arm, found)}")
    settings = _read_settings(folder, about, text)
    arms = []
    for name in found:
        if not about.arms or name in about.arms:
            place = _find_place(about, name, settings)
            arms.append(_make_arm(name, place, [(path, row) for path, row in rows if row["arm"] == name]))
    _check_places(arms, settings)
    return arms


def order_values(about: NormsFile, arms: Iterable[ArmNorms], index: int) -> list[str]:
    """The values of a setting, of rows, columns or lines: those with labels, in their order; then numbers by size; then
    texts."""
    setting, found = about.settings[index], {arm.place[index] for arm in arms}
    labelled = [value for value in about.labels.get(setting or "", {}) if value in found]
    return [*labelled, *sorted(found - set(labelled), key=_number_or_text)]


def list_missing(about: NormsFile, arms: list[ArmNorms]) -> Iterator[str]:
    """What the figure would have room for, and no run has."""
    for setting, labels in about.labels.items():
        values = {arm.place[about.settings.index(setting)] for arm in arms}
        yield from (f"{setting} = {value}: no run" for value in labels if value not in values)
    rows, columns, lines = (order_values(about, arms, index) for index in range(3))
    found = {arm.place for arm in arms}
    for place in ((row, column, line) for row in rows for column in columns for line in lines):
        if place not in found:
            named = [f"{name} = {value}" for name, value in zip(about.settings, place, strict=True) if name]
            yield f"{', '.join(named)}: no run"
    yield from (f"{arm.name}: no norms of the last third of training" for arm in arms if arm.late is None)


def depth_ratios(about: NormsFile, arms: Iterable[ArmNorms]) -> list[DepthRatio]:
    """The last layer's norm of the main loss, relative to the shallowest arm of the same other values; none where depth
    makes no rows, columns or lines."""
    if DEPTH not in about.settings:
        return []
    at = about.settings.index(DEPTH)
    groups: dict[tuple[str, ...], list[ArmNorms]] = {}
    for arm in sorted(arms, key=lambda arm: arm.layers):
        groups.setdefault((*arm.place[:at], *arm.place[at + 1 :]), []).append(arm)
    return [
        DepthRatio(shallowest, arm, arm_norm / base if (base := _last_norm(shallowest)) else None)
        for shallowest, *deeper in groups.values()
        for arm in deeper
        for arm_norm in [_last_norm(arm)]
    ]


def _last_norm(arm: ArmNorms) -> float:
    return (arm.first_main or arm.first).mean[-1]


def _read_norms(path: Path) -> list[Row]:
    """The rows of a table of norms, checked."""
    rows = read_rows(path, NORM_COLUMNS)
    if not rows:
        raise UserError(f"{path} has no norms; collect a study whose plan has training.diagnose_every")
    for row in rows:
        if row["when"] not in (FIRST, *THIRDS):
            raise UserError(f"{path}: when is {row['when']!r}; it must be one of {', '.join((FIRST, *THIRDS))}")
        if not re.fullmatch(r"[1-9]\d{0,4}", row["layer"], re.ASCII):
            raise UserError(f"{path}: a layer is {row['layer']!r}; it must be a whole number from 1")
        for name in ("progress", "norm", *(["main_norm"] if row["main_norm"] else [])):
            if not _is_norm(row[name]):
                raise UserError(
                    f"{path}: {row['arm']!r}, seed {row['seed']}, layer {row['layer']}, has the {name} {row[name]!r}; "
                    "it must be a finite number from 0"
                )
    return rows


def _is_norm(text: str) -> bool:
    try:
        return 0 <= float(text) < math.inf
    except ValueError:
        return False


def _choose_text(about: NormsFile, texts: set[str]) -> str:
    if about.text is None:
        if len(texts) > 1:
            raise UserError(f"the tables have the texts {', '.join(sorted(texts))}; choose one with `text` in [norms]")
        return next(iter(texts))
    if about.text not in texts:
        raise UserError(f"no run has the text {about.text!r}{suggest_names(about.text, texts)}")
    return about.text


def _read_settings(folder: Path, about: NormsFile, text: str) -> Settings:
    """The settings of the final runs: those in which their arms differ, and those that their plan sets in all arms."""
    settings: Settings = {}
    for path in (folder / f"{table}.csv" for table in about.tables):
        for row in read_rows(path):
            if row["stage"] == "final" and row["text"] == text:
                found = {**_parse_settings(path, row, "common_settings"), **_parse_settings(path, row, "settings")}
                values = {name: format_option_value(value) for name, value in found.items()}
                known = settings.setdefault(row["arm"], values)
                for name in about.settings:
                    if name is not None and known.get(name) != values.get(name):
                        raise UserError(f"{path}: the runs of {row['arm']!r} have two values of {name}; rename an arm")
    return settings


def _parse_settings(path: Path, row: Row, column: str) -> dict[str, Any]:
    try:
        value = json.loads(row[column])
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path}: {row['arm']!r}, seed {row['seed']}: {column} is not a JSON object; collect it again")
    return value


def _find_place(about: NormsFile, arm: str, settings: Settings) -> Place:
    if arm not in settings:
        raise UserError(f"{arm!r} has norms and no run in {', '.join(about.tables)}.csv; collect the study again")
    values = []
    for setting in about.settings:
        if setting is not None and setting not in settings[arm]:
            raise UserError(f"{arm!r} has no setting {setting!r}{suggest_names(setting, settings[arm])}")
        values.append(settings[arm][setting] if setting is not None else "")
    return values[0], values[1], values[2]


def _make_arm(name: str, place: Place, rows: Iterable[tuple[Path, Row]]) -> ArmNorms:
    norms: dict[str, Measured] = {}
    of_main: dict[str, Measured] = {}
    progress = 0.0
    for path, row in rows:
        seed, layer, norm = int(row["seed"]), int(row["layer"]), float(row["norm"])
        by_layer = norms.setdefault(row["when"], {}).setdefault(seed, {})
        if by_layer.setdefault(layer, norm) != norm:
            raise UserError(f"{path} and another row have other norms for {name!r}, seed {seed}, layer {layer}")
        if row["main_norm"]:
            of_main.setdefault(row["when"], {}).setdefault(seed, {})[layer] = float(row["main_norm"])
        if row["when"] == FIRST:
            progress = max(progress, float(row["progress"]))
    depth = max(layer for of_when in norms.values() for by_layer in of_when.values() for layer in by_layer)
    for when, of_when in norms.items():
        for seed, by_layer in of_when.items():
            if len(by_layer) != depth:
                raise UserError(
                    f"{name!r}, seed {seed}, has {len(by_layer)} norms ({when}), and the arm has {depth} layers; "
                    "collect the study again"
                )
    first = _summarise(norms.get(FIRST, {}))
    if first is None:
        raise UserError(f"{name!r} has no norms of the first measurement; collect the study again")
    main = of_main.get(FIRST, {})
    is_complete = len(main) == first.seeds and all(len(by_layer) == depth for by_layer in main.values())
    return ArmNorms(
        name, place, progress, first, _summarise(main if is_complete else {}), _summarise(norms.get(_LATE, {}))
    )


def _summarise(by_seed: Mapping[int, Mapping[int, float]]) -> Profile | None:
    if not by_seed:
        return None
    layers = sorted(next(iter(by_seed.values())))
    values = [[norms[layer] for norms in by_seed.values()] for layer in layers]
    mean = tuple(sum(several) / len(several) for several in values)
    return Profile(len(by_seed), mean, tuple(map(min, values)), tuple(map(max, values)))


def _check_places(arms: Iterable[ArmNorms], settings: Settings) -> None:
    taken: dict[Place, str] = {}
    for arm in arms:
        other = taken.setdefault(arm.place, arm.name)
        if other != arm.name:
            differ = [name for name in settings[arm.name] if settings[arm.name][name] != settings[other].get(name)]
            raise UserError(
                f"the arms {other!r} and {arm.name!r} have the same row, column and line, and differ in "
                f"{', '.join(differ) or 'no setting of the table'}; name one in [norms], or choose `arms`"
            )


def _number_or_text(value: str) -> tuple[bool, float, str]:
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value
