"""The parser of all commands, whose errors are one sentence, and options that several commands share."""

import argparse
from typing import Any, NoReturn

from charladder.cli.help_format import format_help
from charladder.cli.recipe_options import SHORT_OPTIONS
from charladder.errors import UserError, closest_name, suggest_names
from charladder.recipe import find_field


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
                self.error(f"{self.prog} has no option {name}{self._suggest_option(name)}")
        if unknown:
            self.error(f"{self.prog} has no use for the argument {unknown[0]!r}")
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
    help_text = "where the run's text is now, if it has moved; repeatable"
    group.add_argument("--data", dest="moved", action="append", default=[], metavar="PATH", help=help_text)


def add_weights_option(group: argparse._ActionsContainer) -> None:
    """--weights, for commands that read the network of a run."""
    help_text = "of RUN: of its last step or its best validation"
    group.add_argument("--weights", choices=("last", "best"), default="last", help=help_text)


def add_context_option(group: argparse._ActionsContainer) -> None:
    group.add_argument("--context", type=int, help="characters of context (default: as trained)")


def add_window_options(group: argparse._ActionsContainer) -> None:
    """--context and --stride, for commands that score a text in windows."""
    add_context_option(group)
    group.add_argument("--stride", type=int, help="characters scored in each window (default: half the context)")


def add_device_option(group: argparse._ActionsContainer) -> None:
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")


def add_json_option(group: argparse._ActionsContainer) -> None:
    group.add_argument("--json", action="store_true", help="print one JSON object on standard output")
