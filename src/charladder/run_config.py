"""The content of config.toml: the recipe of a run, its identity, and a SHA-256 that detects edits."""

import hashlib
import json
from pathlib import Path
from typing import Any

from charladder.errors import UserError
from charladder.recipe import Recipe, recipe_tables

_IDENTITY_TABLE = "identity"  # the table with the entries `run` and `sha256`
_EDITABLE_FIELDS = {
    "text": {"data"},
    "training": {"initial_run", "device", "compile", "parallel", "micro_batch", "log_every", "checkpoint_seconds"},
}  # fields that may be edited: where the text and the initial run are (with a SHA-256 each), and how a run is computed
_MAX_NAMED_FIELDS = 3  # changed fields that an error message names


def config_tables(recipe: Recipe, identity: str | None) -> dict[str, Any]:
    """The tables of config.toml. A run without an identity, of an older version, has no table for it."""
    tables = recipe_tables(recipe)
    if identity is None:
        return tables
    return {**tables, _IDENTITY_TABLE: {"run": identity, "sha256": _config_digest(tables)}}


def _config_digest(tables: dict[str, Any]) -> str:
    """The SHA-256 of all fields but the editable ones, independent of their order and layout in the file."""
    covered = {
        name: {field: entry for field, entry in value.items() if field not in _EDITABLE_FIELDS.get(name, ())}
        if isinstance(value, dict)
        else value
        for name, value in tables.items()
        if name != _IDENTITY_TABLE
    }
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()


def verify_identity(config: Path, tables: dict[str, Any], initial_tables: Any) -> str | None:
    """The identity in the tables of `config`; None if there is none. Raises UserError if the fields do not have the
    SHA-256 in the same table.

    initial_tables: the tables with which the run was created, for the message; None if they are not known.
    """
    table = tables.get(_IDENTITY_TABLE)
    if table is None:
        return None
    run = table.get("run") if isinstance(table, dict) else None
    if not isinstance(run, str) or not run:
        raise UserError(
            f"the table [{_IDENTITY_TABLE}] of {config} has no text `run`; put it back, or remove the table"
        )
    if "sha256" in table and table["sha256"] != _config_digest(tables):
        what = (
            "; ".join(_changed_fields(tables, initial_tables)) or "it does not have the SHA-256 of its [identity] table"
        )
        raise UserError(
            f"{config} was edited ({what}); undo the edit, or accept it: remove the line sha256 from the [identity] "
            "table (a longer budget needs no edit: resume the run with an extended one)"
        )
    return run


def _changed_fields(tables: dict[str, Any], initial_tables: Any) -> list[str]:
    """The fields whose values have changed since the run was created, each as a part of a sentence."""
    changes = []
    for section, fields in tables.items():
        before = initial_tables.get(section) if isinstance(initial_tables, dict) else None
        if section == _IDENTITY_TABLE or not isinstance(fields, dict) or not isinstance(before, dict):
            continue
        for name, value in fields.items():
            if name in before and name not in _EDITABLE_FIELDS.get(section, ()) and before[name] != value:
                changes.append(f"{section}.{name} is {value!r} and was {before[name]!r} when the run began")
    return (
        changes
        if len(changes) <= _MAX_NAMED_FIELDS
        else [*changes[:_MAX_NAMED_FIELDS], f"{len(changes) - _MAX_NAMED_FIELDS} more"]
    )
