"""The help page of a command: usage, description, examples, and one line for every option that is not hidden.

Options with `help=argparse.SUPPRESS` are hidden: recipe fields by dotted name, and those of SHORT_OPTIONS without a
help text (recipe_options.py).
"""

import argparse
import shutil
import textwrap
from collections.abc import Sequence

_MAX_COLUMNS = 100
_MAX_NAME_COLUMNS = 30  # of the column with names and types
_TYPE_NAMES = {int: "INT", float: "FLOAT"}


def format_help(parser: argparse.ArgumentParser, examples: Sequence[str]) -> str:
    """The page, for the width of the terminal and at most 100 columns."""
    columns = min(_MAX_COLUMNS, shutil.get_terminal_size((_MAX_COLUMNS, 24)).columns)
    positionals = [action for action in parser._actions if not action.option_strings]
    usage = " ".join([parser.prog, *map(_usage, positionals), "[options]"])
    parts = [
        f"usage: {usage}",
        textwrap.fill(parser.description or "", columns, break_on_hyphens=False),
        "\n".join(["examples:", *(f"  {example}" for example in examples)]),
    ]
    groups = {
        group: [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        for group in parser._action_groups
    }
    indent = 4 + max(len(_names(action)) for shown in groups.values() for action in shown)
    for group, shown in groups.items():
        if shown:
            lines = [line for action in shown for line in _entry(action, indent, columns)]
            description = textwrap.wrap(group.description or "", columns - 2, break_on_hyphens=False)
            parts.append("\n".join([f"{group.title}:", *lines, *(f"  {line}" for line in description)]))
    return "\n\n".join(parts) + "\n"


def _usage(action: argparse.Action) -> str:
    """A positional argument in the usage line."""
    name = str(action.metavar or action.dest)
    forms = {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} ..."}
    nargs = getattr(action, "save_nargs", action.nargs)  # argparse changes nargs while it parses
    return forms.get(str(nargs), name)


def _entry(action: argparse.Action, indent: int, columns: int) -> list[str]:
    """The lines of an argument or option: its names and type, what it does, its default."""
    choices = f": {value_type(action)}" if _has_long_type(action) else ""
    help_text = f"{action.help or ''}{choices}{_default(action)}"
    lines = textwrap.wrap(help_text, max(20, columns - indent), break_on_hyphens=False, break_long_words=False)
    first, *others = lines or [""]
    return [f"  {_names(action):{indent - 2}}{first}".rstrip(), *(" " * indent + line for line in others)]


def _names(action: argparse.Action) -> str:
    """All names of an option and its type, or the name of an argument."""
    if not action.option_strings:
        return str(action.metavar or action.dest)
    type_name = "" if action.nargs == 0 else " NAME" if _has_long_type(action) else f" {value_type(action)}"
    return ", ".join(action.option_strings) + type_name


def _has_long_type(action: argparse.Action) -> bool:
    """Whether an option has so many choices that they are part of the description."""
    names = ", ".join(action.option_strings)
    return bool(names) and action.nargs != 0 and len(f"{names} {value_type(action)}") > _MAX_NAME_COLUMNS


def value_type(action: argparse.Action) -> str:
    """What an option takes: choices, a metavar such as FILE, or the type."""
    if action.metavar is not None:
        return str(action.metavar)
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    return _TYPE_NAMES.get(action.type, "TEXT")  # type: ignore[call-overload]


def _default(action: argparse.Action) -> str:
    """The default in parentheses; empty for none, for a flag, and where the description has it."""
    default, help_text = action.default, action.help or ""
    if "(default" in help_text or default in (None, "", argparse.SUPPRESS) or isinstance(default, bool | list):
        return ""
    return f" (default {default:g})" if isinstance(default, float) else f" (default {default})"
