"""`charladder explain`: shows the predictions that the auxiliary losses score on a short text, and their weights."""

import dataclasses
import json
from argparse import Namespace
from collections.abc import Collection
from typing import Any

from rich.table import Table

from charladder.auxiliary import Row, explain, presets
from charladder.cli.options import Parser, add_json_option
from charladder.cli.recipe_options import BUDGET_FIELDS
from charladder.cli.terminal import Terminal
from charladder.errors import UserError, suggest_names
from charladder.objective import ObjectiveConfig, has_term, is_chained, term_weights
from charladder.recipe import convert_value, field_types, load_recipe_fields, resolve
from charladder.strict_json import dumps

_MAX_CHARACTERS = 200
_MAX_LAYERS = 1024
_MAX_ROWS = 20_000
_MIN_TABLE_COLUMNS = 60


def make_parser() -> Parser:
    parser = Parser(
        "explain",
        "The predictions that the three auxiliary losses score on a short TEXT: at all positions, of all layers, on "
        "several targets. Shows the weight of each now, and which losses have stopped. Trains nothing.",
        "charladder explain ABCDEF --layers 3 --targets 2 --progress 0.2",
        "charladder explain ABCDEF --recipe t12 --json",
    )
    parser.add_argument("text", metavar="TEXT", help=f"2 to {_MAX_CHARACTERS} characters")
    losses = parser.add_argument_group("losses")
    losses.add_argument("--layers", metavar="INT", help="number of layers (default 3, or the recipe's)")
    losses.add_argument("--targets", metavar="INT", help="characters predicted ahead (default 2, or the recipe's)")
    help_text = f"preset of the layers' weights (default al_rfou): {', '.join(presets.INTERMEDIATE)}"
    losses.add_argument("--intermediate", metavar="PRESET", help=help_text)
    help_text = f"preset of the targets' weights (default al_rfou): {', '.join(presets.TARGETS)}"
    losses.add_argument("--ahead", metavar="PRESET", help=help_text)
    losses.add_argument("--recipe", metavar="NAME|FILE.toml", help="the weights of a recipe, in place of presets")
    moment = parser.add_argument_group("moment of training")
    moment.add_argument("--progress", metavar="FLOAT", default="0", help="0 at the start of training, 1 at its end")
    moment.add_argument("--step", metavar="INT", default="0", help="the step, for presets that change at every step")
    add_json_option(moment)
    return parser


def main(argv: list[str]) -> int:
    options = make_parser().parse(argv)
    progress, step = convert_value("--progress", options.progress, float), convert_value("--step", options.step, int)
    if not 0 <= progress <= 1:
        raise UserError(f"--progress is {progress:g}; it must be between 0, the start of training, and 1, its end")
    if step < 0:
        raise UserError(f"--step is {step}; it must be at least 0")
    if not 2 <= len(options.text) <= _MAX_CHARACTERS:
        raise UserError(f"TEXT has {len(options.text)} characters; give 2 to {_MAX_CHARACTERS}")
    settings, layers = _read_objective(options)
    if not 1 <= layers <= _MAX_LAYERS:
        raise UserError(f"--layers is {layers}; it must be 1 to {_MAX_LAYERS}")
    if layers * settings.targets * len(options.text) > _MAX_ROWS:
        raise UserError(
            f"{layers} layers, {settings.targets} targets and {len(options.text)} characters make more than "
            f"{_MAX_ROWS:,} predictions; give a shorter TEXT, or fewer layers or targets"
        )
    weights = term_weights(settings, layers, progress, step)
    rows = explain(options.text, layers, settings.targets, progress, weights, step)
    rows = [_as_read(row, options.text, settings, layers) for row in rows if has_term(settings, layers, *_place(row))]
    if settings.positions == "last":
        ends = {row.loss: len(row.given) for row in rows}
        rows = [row for row in rows if len(row.given) == ends[row.loss]]
    if options.json:
        print(dumps({"rows": [dataclasses.asdict(row) for row in rows], "progress": progress, "step": step}))
    else:
        _print_rows(rows)
        if any(is_chained(settings, layers, *_place(row)) for row in rows):
            Terminal().print("A chained target is predicted from the state `ahead` characters before it.", markup=False)
    return 0


def _place(row: Row) -> tuple[int, int]:
    return row.layer, row.offset


def _as_read(row: Row, text: str, settings: ObjectiveConfig, layers: int) -> Row:
    """The row with the text that its module reads: a chained module also reads the characters before its target."""
    if not is_chained(settings, layers, *_place(row)):
        return row
    return dataclasses.replace(row, given=text[: len(row.given) + row.offset - 1])


def _read_objective(options: Namespace) -> tuple[ObjectiveConfig, int]:
    """The objective and the number of layers, from --recipe or from the presets."""
    given = {
        name: convert_value(f"--{name}", getattr(options, name), int)
        for name in ("layers", "targets")
        if getattr(options, name) is not None
    }
    if options.recipe is not None:
        if options.intermediate is not None or options.ahead is not None:
            raise UserError("--recipe sets the weights; leave out --intermediate and --ahead")
        raw = {name: value for name, value in load_recipe_fields(options.recipe).items() if name not in BUDGET_FIELDS}
        recipe = resolve({**raw, "training.steps": 1})
        settings, layers = recipe.objective, recipe.model.layers
    else:
        types, layers = field_types(), 3
        settings = ObjectiveConfig(
            intermediate_schedule=_read_preset(
                "--intermediate", options.intermediate, presets.INTERMEDIATE, types["objective.intermediate_schedule"]
            ),
            target_schedule=_read_preset("--ahead", options.ahead, presets.TARGETS, types["objective.target_schedule"]),
        )
    if "targets" in given:
        settings = dataclasses.replace(settings, targets=given["targets"])
    return settings, given.get("layers", layers)


def _read_preset(option: str, name: str | None, known: Collection[str], type_: Any) -> Any:
    """The name of a preset, by default that of the paper. Raises UserError with the nearest name."""
    if name is not None and name not in known:
        raise UserError(f"{option}: there is no preset called {name!r}{suggest_names(name, known)}")
    return convert_value(option, name or "al_rfou", type_)


def _print_rows(rows: list[Row]) -> None:
    """Prints a table, or lines on a narrow terminal, and the weighted sum."""
    console = Terminal()
    if console.width < _MIN_TABLE_COLUMNS:
        for row in rows:
            weight = f"weight {row.weight:.3g}" if row.active else "inactive"
            line = f"{row.loss}: {_quote(row.given)} -> {_quote(row.target)}, {weight}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    else:
        console.print(_make_table(rows), markup=False)
    _print_total(console, rows)


def _quote(text: str) -> str:
    """A text in quotes, with escape sequences for characters that are not printable."""
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else json.dumps(c)[1:-1] for c in text) + '"'


def _make_table(rows: list[Row]) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="bold")
    table.add_column("loss")
    table.add_column("layer", justify="right")
    table.add_column("given")
    table.add_column("predict")
    table.add_column("ahead", justify="right")
    table.add_column("weight", justify="right")
    before = None
    for row in rows:
        if before is not None and row.loss != before:
            table.add_section()
        weight = f"{row.weight:.3g}" if row.active else "inactive"
        style = None if row.active else "dim"
        table.add_row(
            row.loss, str(row.layer), _quote(row.given), _quote(row.target), str(row.offset), weight, style=style
        )
        before = row.loss
    return table


def _print_total(console: Terminal, rows: list[Row]) -> None:
    weights = {row.loss: row.weight for row in rows if row.active}
    inactive = [row for row in rows if not row.active]
    console.print(
        f"\ntotal = {' + '.join(f'{weight:.3g} {name}' for name, weight in weights.items())}\n"
        f"Each term is the mean of its predictions: {len(rows) - len(inactive)} of them"
        + (f", and {len(inactive)} of terms that are inactive now (weight 0)." if inactive else "."),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
