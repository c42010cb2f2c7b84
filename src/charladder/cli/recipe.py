"""`charladder recipe`: lists every field of a recipe."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from charladder.cli.options import Parser, add_json_option
from charladder.cli.recipe_options import FIELDS_SET_BY_RUN, field_type
from charladder.cli.tables import AdaptiveTable
from charladder.cli.terminal import Terminal
from charladder.recipe import SECTIONS, field_help, field_types, load_recipe_fields, resolve
from charladder.strict_json import dumps

_REGENERATE = "charladder recipe --markdown > docs/recipe.md"


def make_parser() -> Parser:
    parser = Parser(
        "recipe",
        "Every field of a recipe: its name, type, default in the recipe NAME, and what it does. A field is set as "
        "--SECTION.FIELD VALUE by train and inspect, with --set SECTION.FIELD=VALUE by study, or in a TOML file.",
        "charladder recipe",
        "charladder recipe t12 --json",
    )
    parser.add_argument("name", nargs="?", default="ladder", metavar="NAME", help="a recipe by name, or FILE.toml")
    parser.add_argument("--markdown", action="store_true", help="print the page docs/recipe.md of the documentation")
    add_json_option(parser)
    return parser


def main(argv: list[str]) -> int:
    options = make_parser().parse(argv)
    fields = describe_fields(options.name)
    if options.json:
        print(dumps({"recipe": options.name, "fields": fields}))
    elif options.markdown:
        print(_format_markdown(options.name, fields), end="")
    else:
        _print_tables(fields)
    return 0


def describe_fields(name: str) -> list[dict[str, Any]]:
    """All fields that a recipe may set: field, type, choices, default in this recipe, help.

    Raises UserError where there is no such recipe.
    """
    recipe, types, lines = resolve(load_recipe_fields(name)), field_types(), field_help()
    sections = {section: dataclasses.asdict(getattr(recipe, section)) for section in SECTIONS}
    entries = []
    for field, type_ in types.items():
        if field not in FIELDS_SET_BY_RUN - {"text.data"}:
            section, last = field.split(".")
            choices = list(get_args(type_)) if get_origin(type_) is Literal else None
            type_name = "CHOICE" if choices else field_type(type_)
            default, line = sections[section][last], lines[field]
            entries.append({"field": field, "type": type_name, "choices": choices, "default": default, "help": line})
    return entries


def _format_markdown(name: str, fields: list[dict[str, Any]]) -> str:
    """The page of the documentation."""
    lines = [
        "# The fields of a recipe",
        "",
        f"Defaults are those of the recipe `{name}`; `charladder recipe NAME` shows those of another.",
        "Layers, width, attention heads, feed-forward width, context, batch, dropout and validations follow from the",
        "budget and the length of the text unless they are set.",
        "",
        "Set a field as `--SECTION.FIELD VALUE` for `train` and `inspect`, as `--set SECTION.FIELD=VALUE` for `study`,",
        "or in a TOML file for `--recipe`.",
        "",
        f"This page is generated from the docstrings of the fields: `{_REGENERATE}`.",
    ]
    for section, entries in _by_section(fields):
        lines += ["", f"## {section}", "", "| Field | Type | Default | |", "|---|---|---|---|"]
        for entry in entries:
            cells = f"`{entry['field']}`", _type_of(entry), f"`{json.dumps(entry['default'])}`", entry["help"]
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _print_tables(fields: list[dict[str, Any]]) -> None:
    """A table for each section."""
    console = Terminal()
    for section, entries in _by_section(fields):
        wrapped = "type", "what it does"
        table = AdaptiveTable(f"[{section}]", "default", "type", "what it does", wrapped=wrapped)
        for entry in entries:
            table.add_row(entry["field"].split(".")[1], json.dumps(entry["default"]), _type_of(entry), entry["help"])
        console.print(table)
        console.print()


def _by_section(fields: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for section in SECTIONS:
        yield section, [entry for entry in fields if entry["field"].startswith(f"{section}.")]


def _type_of(entry: dict[str, Any]) -> str:
    return ", ".join(map(str, entry["choices"])) if entry["choices"] else entry["type"]
