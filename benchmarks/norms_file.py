"""The table [norms] of NAME.toml beside the tables of runs: how the figure of gradient norms is laid out.

[norms]
title = "Gradient norms by layer"
rows = "model.norm_placement"      # a row of panels for each value; each of these three may be left out
columns = "model.layers"
lines = "objective.intermediate"   # a colour for each value
tables = ["norms", "norms-48"]     # CSVs, each with its NAME-norms.csv (default: NAME)
text = "book"                      # needed where the tables have runs of several texts
arms = ["a", "b"]                  # only these (default: all)

[norms.labels."objective.intermediate"]    # of values, in the order of the figure
true = "with the losses of intermediate layers"
false = "without"
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charladder.errors import UserError, suggest_names
from charladder.input_files import parse_toml, read_bytes
from charladder.recipe import convert_value

_KEYS = "title", "rows", "columns", "lines", "tables", "text", "arms", "labels"
_PLACES = "rows", "columns", "lines"


@dataclass(frozen=True)
class NormsFile:
    """What the figure shows, as the head of this file describes.

    settings: dotted names of those that make rows, columns and lines; None for one row, column or line. text: None for
    the only one. arms: empty for all. labels: by setting and value.
    """

    name: str
    title: str
    settings: tuple[str | None, str | None, str | None]
    tables: tuple[str, ...]
    text: str | None
    arms: tuple[str, ...]
    labels: dict[str, dict[str, str]]

    def label(self, setting: str | None, value: str) -> str:
        """What the figure and the tables call a value of a setting."""
        if setting is None:
            return ""
        return self.labels.get(setting, {}).get(value, f"{short_name(setting)} = {value}")


def short_name(setting: str) -> str:
    """The name of a setting without its section."""
    return setting.rpartition(".")[2]


def read_norms_file(folder: Path, name: str) -> NormsFile:
    """Reads and checks the table [norms] of NAME.toml. Raises UserError where it is missing or invalid."""
    path = folder / f"{name}.toml"
    try:
        tables = parse_toml(read_bytes(path), str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; its table [norms] lays out the figure") from None
    if "norms" not in tables:
        raise UserError(f"{path} has no table [norms]; add it, with the settings of rows, columns and lines")
    try:
        return _parse(name, tables["norms"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _parse(name: str, table: Any) -> NormsFile:
    if not isinstance(table, dict):
        raise UserError(f"norms is {table!r}; it must be a table, [norms]")
    for key in table:
        if key not in _KEYS:
            raise UserError(f"[norms] has the unknown key {key!r}{suggest_names(key, _KEYS)}")
    rows, columns, lines = (convert_value(key, table[key], str) if key in table else None for key in _PLACES)
    named = [setting for setting in (rows, columns, lines) if setting is not None]
    if len(set(named)) < len(named):
        raise UserError("rows, columns and lines must be different settings; leave out those that are not needed")
    return NormsFile(
        name=name,
        title=convert_value("title", table.get("title", f"{name}: gradient norms by layer"), str),
        settings=(rows, columns, lines),
        tables=convert_value("tables", table.get("tables", name), tuple[str, ...]),
        text=convert_value("text", table["text"], str) if "text" in table else None,
        arms=convert_value("arms", table["arms"], tuple[str, ...]) if "arms" in table else (),
        labels=_parse_labels(table.get("labels", {}), named),
    )


def _parse_labels(tables: Any, settings: list[str]) -> dict[str, dict[str, str]]:
    if not isinstance(tables, dict) or not all(isinstance(labels, dict) for labels in tables.values()):
        raise UserError(f'labels is {tables!r}; it must have a table for each setting, [norms.labels."SETTING"]')
    for setting in tables:
        if setting not in settings:
            raise UserError(f"labels has {setting!r}, which makes no rows, columns or lines; put its name in quotes")
    return {
        setting: {
            value: convert_value(f"the label of {setting} = {value}", text, str) for value, text in labels.items()
        }
        for setting, labels in tables.items()
    }
