"""Options that set recipe fields: --recipe, short names of common fields, and every field by its dotted name."""

import argparse
import dataclasses
from typing import Any, Literal, get_args, get_origin

from charladder.errors import UserError
from charladder.recipe import SECTIONS, RecipeFields, convert_value, field_types, load_recipe_fields

# The dotted field and its line of help; the help page leaves out fields without one.
SHORT_OPTIONS = {
    "minutes": ("training.minutes", "budget in minutes"),
    "steps": ("training.steps", "budget in optimizer steps"),
    "chars": ("training.characters", "budget in characters read"),
    "layers": ("model.layers", "number of layers (default: from the budget)"),
    "width": ("model.width", "width of the hidden state (default: from the number of layers)"),
    "attention-heads": ("model.attention_heads", ""),
    "context": ("model.context", "characters of context (default: from the budget)"),
    "batch": ("training.batch", "windows a step; auto: the recipe's, split to fit the memory"),
    "patience": ("training.patience", "end after N validations without improvement; 0: never"),
    "seed": ("training.seed", "seed of weights, windows and dropout"),
    "device": ("training.device", "auto, cpu, cuda, cuda:1 or mps"),
    "precision": ("training.precision", "dtype of activations"),
    "encoding": ("text.encoding", "encoding of the files; all but utf-8 are converted"),
    "alphabet": ("text.alphabet", "what a character is"),
    "unknown": ("text.unknown", ""),
    "boundaries": ("text.boundaries", ""),
    "valid": ("text.valid", "validation part: characters, or a fraction below 1"),
    "test": ("text.test", "test part, at the end of the text"),
}
BUDGET_FIELDS = {"training.minutes", "training.steps", "training.characters"}
FIELDS_SET_BY_RUN = {
    "text.data", "text.characters", "text.sha256", "text.files", "text.letters", "training.initial_run",
    "training.initial_sha256",
}  # fmt: skip


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """--recipe, the short names of fields, and all fields by dotted name, which the help page leaves out."""
    help_text = "every other field: --SECTION.FIELD VALUE, such as --training.clip 0.5; see charladder recipe"
    group, types = parser.add_argument_group("recipe", help_text), field_types()
    group.add_argument("--recipe", metavar="NAME|FILE.toml", help="ladder (default), sprint, t12, t64 or a file")
    for name, (dotted, description) in SHORT_OPTIONS.items():
        type_name = "INT|auto" if name == "batch" else field_type(types[dotted])
        help_text = description + _ladder_default(dotted) if description else argparse.SUPPRESS
        group.add_argument(f"--{name}", dest=dotted, metavar=type_name, help=help_text, default=argparse.SUPPRESS)
    for dotted, type_ in types.items():
        if dotted not in FIELDS_SET_BY_RUN:
            names, metavar = dict.fromkeys((f"--{dotted.replace('_', '-')}", f"--{dotted}")), field_type(type_)
            group.add_argument(*names, dest=dotted, metavar=metavar, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def field_type(type_: Any) -> str:
    """The type of a recipe field as help pages show it: choices, or INT, FLOAT, BOOL, TEXT, LIST."""
    if get_origin(type_) is Literal:
        return "|".join(map(str, get_args(type_)))
    return {int: "INT", float: "FLOAT", bool: "BOOL", str: "TEXT"}.get(type_, "LIST")


def _ladder_default(dotted: str) -> str:
    """The default of a field in the recipe `ladder`, for the help page; empty where it has none."""
    section, name = dotted.split(".")
    defaults = {field.name: field.default for field in dataclasses.fields(SECTIONS[section])}
    value = load_recipe_fields("ladder").get(dotted, defaults[name])
    if value is dataclasses.MISSING or (dotted in BUDGET_FIELDS and not value):
        return ""
    return f" (default {value:g})" if isinstance(value, float) else f" (default {value})"


def given_fields(options: argparse.Namespace) -> RecipeFields:
    """The recipe fields given on the command line, by dotted name, converted to their types."""
    types = field_types()
    given: dict[str, Any] = {name: value for name, value in vars(options).items() if name in types}
    budgets = sorted(BUDGET_FIELDS & set(given))
    if len(budgets) > 1:
        raise UserError(f"{budgets[0]} and {budgets[1]} are both given; a run has one budget: choose one")
    return {name: convert_value(name, value, types[name]) for name, value in given.items()}


def read_recipe_fields(options: argparse.Namespace) -> RecipeFields:
    """The fields of the recipe, overridden by those of the command line."""
    raw, given = load_recipe_fields("ladder" if options.recipe is None else options.recipe), given_fields(options)
    if BUDGET_FIELDS & set(given):
        raw = {name: value for name, value in raw.items() if name not in BUDGET_FIELDS}
    return {**raw, **given}
