"""The content of config.toml: the recipe of a run, its identity, and a SHA-256 that shows an edit."""

import hashlib
import json
from pathlib import Path
from typing import Any

from charladder.errors import UserError
from charladder.recipe import Recipe, tables

IDENTITY = "identity"  # the table with the entries `run` and `sha256`
FREE = {
    "text": {"data"},
    "training": {"initial_run", "device", "compile", "parallel", "micro_batch", "log_every", "checkpoint_seconds"},
}  # fields that may be edited: where the text and the initial run are (with a SHA-256 each), and how a run is computed
SHOWN = 3  # changed fields that a sentence names


def config_tables(recipe: Recipe, identity: str | None) -> dict[str, Any]:
    """The tables of config.toml. A run without an identity, of an older version, has no table for it."""
    found = tables(recipe)
    return found if identity is None else {**found, IDENTITY: {"run": identity, "sha256": digest_of(found)}}


def digest_of(found: dict[str, Any]) -> str:
    """The SHA-256 of all fields but the free ones, whatever their order and layout in the file."""
    kept = {
        name: {field: one for field, one in value.items() if field not in FREE.get(name, ())}
        if isinstance(value, dict)
        else value
        for name, value in found.items()
        if name != IDENTITY
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def checked_identity(config: Path, found: dict[str, Any], began: Any) -> str | None:
    """The identity in the tables of `config`; None where there is none. Raises UserError where the fields do not have
    the SHA-256 beside it.

    began: the tables that the run began with, for the sentence, where they are known.
    """
    table = found.get(IDENTITY)
    if table is None:
        return None
    run = table.get("run") if isinstance(table, dict) else None
    if not isinstance(run, str) or not run:
        raise UserError(f"the table [{IDENTITY}] of {config} has no text `run`; put it back, or remove the table")
    if "sha256" in table and table["sha256"] != digest_of(found):
        what = "; ".join(changed_fields(found, began)) or "it does not have the SHA-256 of its [identity] table"
        raise UserError(
            f"{config} was edited ({what}); undo the edit, or accept it: remove the line sha256 from the [identity] "
            "table (a longer budget needs no edit: resume the run with an extended one)"
        )
    return run


def changed_fields(found: dict[str, Any], began: Any) -> list[str]:
    """Which fields have other values than when the run began."""
    changes = []
    for section, fields in found.items():
        before = began.get(section) if isinstance(began, dict) else None
        if section == IDENTITY or not isinstance(fields, dict) or not isinstance(before, dict):
            continue
        for name, value in fields.items():
            if name in before and name not in FREE.get(section, ()) and before[name] != value:
                changes.append(f"{section}.{name} is {value!r} and was {before[name]!r} when the run began")
    return changes if len(changes) <= SHOWN else [*changes[:SHOWN], f"{len(changes) - SHOWN} more"]
