"""Options that several commands share: argparse with one-sentence errors, and every recipe field by its dotted name."""

import argparse
import dataclasses
from typing import Any, Literal, NoReturn, get_args, get_origin

from charladder.cli.help_page import format_help
from charladder.errors import UserError, closest_name, suggest_names
from charladder.recipe import SECTIONS, RecipeFields, convert_value, field_types, find_field, load_recipe_fields

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


class _PositionalWord(str):
    """A word after `--`. argparse forgets the `--` when it parses options and positional arguments in turn."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are UserError, in one sentence, with the nearest option.

    examples: complete commands for the help page.
    """

    def __init__(self, command: str, description: str, *examples: str) -> None:
        super().__init__(prog=f"charladder {command}", description=description, allow_abbrev=False, add_help=False)
        self.examples = examples
        self._positionals.title = "arguments"
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)

    def format_help(self) -> str:
        return format_help(self, self.examples)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")

    def _parse_optional(self, arg_string: str) -> Any:
        return None if isinstance(arg_string, _PositionalWord) else super()._parse_optional(arg_string)

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """Options and positional arguments, in any order; every word after `--` is a positional argument."""
        end = argv.index("--") if "--" in argv else len(argv)
        known, unknown = self.parse_known_intermixed_args([*argv[:end], *map(_PositionalWord, argv[end + 1 :])])
        for word in unknown:
            if self._parse_optional(word) is not None:
                name = word.split("=", 1)[0]
                raise UserError(f"{self.prog} has no option {name}{self._suggest_option(name)}")
        if unknown:
            raise UserError(f"{self.prog} has no use for the argument {unknown[0]!r}; see {self.prog} --help")
        return known

    def _suggest_option(self, name: str) -> str:
        """The end of a sentence about an unknown option: another library's name for it, or the most similar one.

        Names are compared without their dashes, which would dominate the similarity of short names.
        """
        options, plain = self._option_string_actions, name.lstrip("-")
        field = find_field(plain)
        if field is not None:
            short = [f"--{short}" for short, (dotted, _) in SHORT_OPTIONS.items() if dotted == field]
            refit_names = ["--rate"] if field == "training.learning_rate" else []  # `refit` has no recipe
            for option in (*short, f"--{field.replace('_', '-')}", *refit_names):
                if option in options:
                    return f"; did you mean {option}?"
        by_name = {option.lstrip("-"): option for option in options}
        close = closest_name(plain, by_name)
        return f"; did you mean {by_name[close]}?" if close is not None else suggest_names("", options)


def add_data_option(group: argparse._ActionsContainer) -> None:
    """--data, for commands that read the text that a run was trained on."""
    about = "where the run's text is now, if it has moved; repeatable"
    group.add_argument("--data", dest="moved", action="append", default=[], metavar="PATH", help=about)


def add_weights_option(group: argparse._ActionsContainer) -> None:
    """--weights, for commands that read the network of a run."""
    about = "of RUN: of its last step or its best validation"
    group.add_argument("--weights", choices=("last", "best"), default="last", help=about)


def add_device_option(group: argparse._ActionsContainer) -> None:
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")


def add_json_option(group: argparse._ActionsContainer) -> None:
    group.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def add_recipe_options(parser: Parser) -> None:
    """--recipe, the short names of fields, and all fields by dotted name, which the help page leaves out."""
    about = "every other field: --SECTION.FIELD VALUE, such as --training.clip 0.5; see charladder recipe"
    group, types = parser.add_argument_group("recipe", about), field_types()
    group.add_argument("--recipe", metavar="NAME|FILE.toml", help="ladder (default), sprint, t12, t64 or a file")
    for name, (dotted, line) in SHORT_OPTIONS.items():
        type_name = "INT|auto" if name == "batch" else field_type(types[dotted])
        about = line + _ladder_default(dotted) if line else argparse.SUPPRESS
        group.add_argument(f"--{name}", dest=dotted, metavar=type_name, help=about, default=argparse.SUPPRESS)
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
