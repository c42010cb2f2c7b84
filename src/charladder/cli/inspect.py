"""`charladder inspect`: shows parameters, operations, memory and settings of a run or recipe."""

import dataclasses
import json
from pathlib import Path

from rich.table import Table

from charladder.cli.estimate import describe_recipe
from charladder.cli.options import Parser, add_json_option
from charladder.cli.recipe_options import add_recipe_options, given_fields, read_recipe_fields
from charladder.cli.terminal import Terminal
from charladder.errors import UserError
from charladder.recipe import recipe_tables, resolve
from charladder.run import open_run
from charladder.strict_json import dumps


def make_parser() -> Parser:
    parser = Parser(
        "inspect",
        "Parameters in training and at inference, operations, memory and all settings of a run or recipe.",
        "charladder inspect t64",
        "charladder inspect runs/ladder-1 --json",
    )
    parser.add_argument("what", nargs="?", metavar="RUN|RECIPE", help="default: the recipe ladder")
    add_json_option(parser)
    add_recipe_options(parser)
    return parser


def main(argv: list[str]) -> int:
    options = make_parser().parse(argv)
    if options.what is not None and options.recipe is not None:
        raise UserError("RUN|RECIPE and --recipe are both given; give one")
    if options.what and Path(options.what).is_dir():
        if given_fields(options):
            raise UserError(f"{options.what} is a run, whose settings are fixed; give recipe fields with a recipe")
        recipe = open_run(Path(options.what)).recipe
    else:
        options.recipe = options.recipe if options.what is None else options.what
        recipe = resolve(read_recipe_fields(options))
    facts = describe_recipe(recipe)
    if options.json:
        print(dumps({**facts, "config": recipe_tables(recipe)}))
        return 0
    console = Terminal()
    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_row("layers, width, context", f"{facts['layers']}, {facts['width']}, {facts['context']}")
    table.add_row("parameters in training", f"{facts['parameters']['training']:,}")
    table.add_row("parameters at inference", f"{facts['parameters']['inference']:,}")
    table.add_row("operations a character, training", f"{facts['operations_per_character']['training']:,}")
    table.add_row("operations a character, inference", f"{facts['operations_per_character']['inference']:,}")
    table.add_row("memory in training, estimate", f"{facts['memory_bytes']['training'] / 2**30:.2f} GiB")
    table.add_row("memory at inference, estimate", f"{facts['memory_bytes']['inference'] / 2**30:.2f} GiB")
    if (runtime := facts["memory_bytes"]["runtime"]) is not None:
        table.add_row("and for Python and its libraries, here", f"{runtime / 2**30:.2f} GiB")
    console.print(table)
    for section in ("text", "model", "objective", "training"):
        console.print(f"\n[{section}]", markup=False, highlight=False)
        for name, value in dataclasses.asdict(getattr(recipe, section)).items():
            console.print(f"{name} = {json.dumps(value)}", markup=False, highlight=False, soft_wrap=True)
    return 0
