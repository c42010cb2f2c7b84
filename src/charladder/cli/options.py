"""Options: argparse with our sentences, and every recipe field by its dotted name."""

import argparse
from typing import Any, Literal, NoReturn, get_args, get_origin

from charladder.errors import UserError, closest_name, suggest_names
from charladder.recipe import Raw, convert, field_types, meant_field, read_raw

SHORT_OPTIONS = {
    "minutes": ("training.minutes", "budget in minutes"),
    "steps": ("training.steps", "budget in optimisation steps"),
    "chars": ("training.characters", "budget in characters read"),
    "layers": ("model.layers", "depth: the dial that width, heads and feed-forward follow unless set"),
    "width": ("model.width", "width of the stream"),
    "attention-heads": ("model.attention_heads", "attention heads a layer"),
    "context": ("model.context", "characters of context"),
    "batch": ("training.batch", "windows a step; auto: the recipe's, as many at once as memory holds"),
    "patience": ("training.patience", "validations without a better one until training ends early (0: never)"),
    "seed": ("training.seed", "seed of weights, windows and dropout"),
    "device": ("training.device", "auto, cpu, cuda, cuda:1, mps"),
    "precision": ("training.precision", "auto, float32, bfloat16"),
    "encoding": ("text.encoding", "text encoding of the files (default utf-8: bytes as they are)"),
    "alphabet": ("text.alphabet", "bytes, letters, unicode, text8"),
    "unknown": ("text.unknown", "letters outside the alphabet: error, replace, drop"),
    "boundaries": ("text.boundaries", "windows may cross from file to file, or keep to one: cross, keep"),
    "valid": ("text.valid", "characters held out for validation, or a fraction below 1"),
    "test": ("text.test", "characters held out at the very end, or a fraction below 1"),
}
BUDGET_FIELDS = {"training.minutes", "training.steps", "training.characters"}
FIELDS_SET_BY_RUN = {  # by the run itself
    "text.data", "text.characters", "text.sha256", "text.files", "text.letters", "training.initial_run",
    "training.initial_sha256",
}  # fmt: skip


class _PositionalWord(str):
    """A word after `--`. argparse itself forgets the `--` when it parses options and positional arguments in turn."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes are UserError, in one sentence, with the nearest option."""

    def __init__(self, verb: str, about: str, example: str) -> None:
        super().__init__(
            prog=f"charladder {verb}",
            description=about,
            epilog=f"example:  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")

    def _parse_optional(self, arg_string: str) -> Any:
        return None if isinstance(arg_string, _PositionalWord) else super()._parse_optional(arg_string)

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """The options and positional arguments, which may stand in any order; after `--` nothing is an option."""
        end = argv.index("--") if "--" in argv else len(argv)
        known, unknown = self.parse_known_intermixed_args([*argv[:end], *map(_PositionalWord, argv[end + 1 :])])
        for word in unknown:
            if self._parse_optional(word) is not None:
                name = word.split("=", 1)[0]
                raise UserError(f"{self.prog} has no option {name}{self._suggest_option(name)}")
        if unknown:
            raise UserError(f"{self.prog} does not know what to do with {unknown[0]!r}; see {self.prog} --help")
        return known

    def _suggest_option(self, name: str) -> str:
        """The end of a sentence about an unknown option: the one that is meant, or most alike. The dashes of a name
        are left out, for in a short one they would be most of what is alike."""
        options, plain = self._option_string_actions, name.lstrip("-")
        meant = meant_field(plain)
        if meant is not None:
            short = [f"--{short}" for short, (dotted, _) in SHORT_OPTIONS.items() if dotted == meant]
            own = ["--rate"] if meant == "training.learning_rate" else []  # of `refit`, which has no recipe
            for option in (*short, f"--{meant.replace('_', '-')}", *own):
                if option in options:
                    return f"; did you mean {option}?"
        by_name = {option.lstrip("-"): option for option in options}
        close = closest_name(plain, by_name)
        return f"; did you mean {by_name[close]}?" if close is not None else suggest_names("", options)


def add_data_option(parser: Parser) -> None:
    """--data, for commands that read the text that a run was trained on."""
    about = "where the text that the run was trained on is now, if it has moved (checked by SHA-256); may be repeated"
    parser.add_argument("--data", dest="moved", action="append", default=[], metavar="PATH", help=about)


def add_weights_option(parser: Parser) -> None:
    """--weights, for commands that read the network of a run."""
    about = "of RUN: those of the last step, or of the best validation (default last)"
    parser.add_argument("--weights", choices=("last", "best"), default="last", help=about)


def add_recipe_options(parser: Parser) -> None:
    """--recipe, the short names, and all fields by dotted name."""
    parser.add_argument(
        "--recipe", metavar="NAME|FILE.toml", help="ladder (default), sprint, t12, t64, or a file of yours"
    )
    short = parser.add_argument_group("the recipe's most used fields")
    for name, (dotted, about) in SHORT_OPTIONS.items():
        short.add_argument(f"--{name}", dest=dotted, metavar="X", help=about, default=argparse.SUPPRESS)
    fields = parser.add_argument_group("every field of the recipe")
    for dotted, kind in field_types().items():
        if dotted not in FIELDS_SET_BY_RUN:
            names = dict.fromkeys((f"--{dotted.replace('_', '-')}", f"--{dotted}"))
            choices = "|".join(map(str, get_args(kind))) if get_origin(kind) is Literal else kind.__name__.upper()
            fields.add_argument(*names, dest=dotted, metavar=choices, default=argparse.SUPPRESS)


def given_fields(options: argparse.Namespace) -> Raw:
    """The recipe fields given on the command line, by dotted name, in their types."""
    types = field_types()
    given: dict[str, Any] = {name: value for name, value in vars(options).items() if name in types}
    budgets = sorted(BUDGET_FIELDS & set(given))
    if len(budgets) > 1:
        raise UserError(f"{budgets[0]} and {budgets[1]} are both given; a run has one budget: choose one")
    return {name: convert(name, value, types[name]) for name, value in given.items()}


def read_recipe_fields(options: argparse.Namespace) -> Raw:
    """The fields of the chosen recipe with those given on the command line over them."""
    raw, given = read_raw("ladder" if options.recipe is None else options.recipe), given_fields(options)
    if BUDGET_FIELDS & set(given):
        raw = {name: value for name, value in raw.items() if name not in BUDGET_FIELDS}
    return {**raw, **given}
