"""The values that a sweep has chosen, once the comparison has begun with them."""

from pathlib import Path
from typing import Any

from charladder.errors import UserError
from charladder.input_files import parse_toml, read_bytes
from charladder.studies.directory import check_is_folder, check_study_directory
from charladder.studies.plan import Plan
from charladder.studies.plan_file import parse_seeds
from charladder.studies.sweep import Values, sweep_directory, sweep_plan, with_values


def read_choice(plan: Plan, folder: Path) -> Plan | None:
    """The plan with the values that its sweep chose, where the comparison in `folder` has begun; otherwise None.

    The choice stands from then on: a failed run of the sweep is not repeated, because other values would not be those
    of the runs in the folder. Raises UserError, before any run of the sweep is trained, where the folder or that of
    the sweep holds something else.
    """
    assert plan.sweep is not None
    directory = sweep_directory(folder)
    check_is_folder(folder)
    check_study_directory(sweep_plan(plan), directory)
    if not (folder / "plan.toml").exists():
        return None
    if not (directory / "plan.toml").exists():
        raise UserError(f"{folder} holds a study without a sweep", field="out", rule="choose another folder")
    if set(plan.sweep.seeds) != set(_seeds_of_sweep(directory / "plan.toml")):
        raise UserError(
            f"{folder} holds runs with values that were chosen on other seeds than those of [sweep]",
            field="out",
            rule="choose another folder",
        )
    chosen = with_values(plan, _read_values(plan, folder / "plan.toml"))
    check_study_directory(chosen, folder)
    return chosen


def _seeds_of_sweep(path: Path) -> tuple[int, ...]:
    return parse_seeds(_read_tables(path).get("seeds"), str(path))


def _read_values(plan: Plan, path: Path) -> Values:
    """The value of each swept field in plan.toml. Raises UserError for one that is not in the sweep."""
    assert plan.sweep is not None
    arms = _read_tables(path).get("arms")
    values: Values = {}
    for arm in plan.arms:
        fields = arms.get(arm.name) if isinstance(arms, dict) else None
        if not isinstance(fields, dict):
            raise UserError(f"{path.parent} holds another plan, without arm {arm.name!r}", rule="choose another folder")
        values[arm.name] = {}
        for name, several in plan.sweep.values_for(arm.name).items():
            if fields.get(name) not in several:
                raise UserError(
                    f"{path.parent} holds runs of arm {arm.name!r} whose {name} is not in the sweep",
                    field="out",
                    rule="choose another folder",
                )
            values[arm.name][name] = fields[name]
    return values


def _read_tables(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(read_bytes(path), str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
