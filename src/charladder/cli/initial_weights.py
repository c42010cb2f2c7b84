"""`train NEW_TEXT --from RUN`: the recipe of a new run that begins with the weights of another."""

from argparse import Namespace
from pathlib import Path

from charladder.cli.options import BUDGET_FIELDS, given_fields
from charladder.errors import UserError
from charladder.recipe import RecipeFields, recipe_tables
from charladder.run import Run, open_run
from charladder.trainer_factory import network_digest

_INHERITED_TEXT_FIELDS = (
    "alphabet",
    "unknown",
    "boundaries",
    "order",
)  # settings of text that are those of RUN; others are of NEW_TEXT


def read_initial_fields(options: Namespace) -> tuple[RecipeFields, Run]:
    """The recipe fields of RUN with those given on the command line over them, and RUN.

    Raises UserError for fields that its network or its alphabet cannot have, and where RUN has no weights.
    """
    run = open_run(Path(options.source), options.weights)
    given = given_fields(options)
    if options.recipe is not None:
        raise UserError(f"--from takes the recipe of {run.path}; leave --recipe out (fields may be given one by one)")
    if not options.data:
        raise UserError("--from begins a new run on another text; give that text as DATA")
    sections = recipe_tables(run.recipe)
    _check_fixed_fields(run, given, sections)
    raw: RecipeFields = {"recipe": run.recipe.recipe}
    for section in ("model", "objective", "training"):
        raw |= {f"{section}.{name}": value for name, value in sections[section].items()}
    raw |= {f"text.{name}": sections["text"][name] for name in _INHERITED_TEXT_FIELDS}
    if BUDGET_FIELDS & set(given):
        raw = {name: value for name, value in raw.items() if name not in BUDGET_FIELDS}
    raw |= {"training.initial_run": str(run.path.absolute()), "training.initial_sha256": network_digest(run)}
    return {**raw, **given}, run


def _check_fixed_fields(run: Run, given: RecipeFields, sections: RecipeFields) -> None:
    """Raises UserError for a field that the network of `run` fixes, where another value is given for it."""
    free = {"model.dropout"} | (set() if run.recipe.model.learned_positions else {"model.context"})
    fixed = {f"model.{name}": value for name, value in sections["model"].items()}
    fixed["text.alphabet"] = sections["text"]["alphabet"]
    for name, value in fixed.items():
        if name not in free and given.get(name, value) != value:
            raise UserError(
                f"{name} is {given[name]}, and --from keeps the network and the alphabet of {run.path}, where it is "
                f"{value}; leave it out, or start a run without --from"
            )
