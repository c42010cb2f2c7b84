"""The recipe of a run that starts from the weights of another run: `train NEW_TEXT --from RUN`."""

from argparse import Namespace
from pathlib import Path

from charladder.cli.recipe_options import BUDGET_FIELDS, given_fields
from charladder.errors import UserError
from charladder.recipe import RecipeFields, recipe_tables
from charladder.run import Run, open_run
from charladder.trainer_factory import network_digest

_INHERITED_TEXT_FIELDS = (
    "alphabet",
    "unknown",
    "boundaries",
    "order",
)


def read_initial_fields(options: Namespace) -> tuple[RecipeFields, Run]:
    """The recipe fields of RUN, overridden by those of the command line, and RUN.

    Raises UserError for fields that its network or alphabet fixes, and if RUN has no weights.
    """
    run = open_run(Path(options.source), options.weights)
    given = given_fields(options)
    if options.recipe is not None:
        raise UserError(f"--from takes the recipe of {run.path}; leave --recipe out (fields may be given one by one)")
    if not options.data:
        raise UserError("--from starts a new run on another text; give that text as DATA")
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
    """Raises UserError if another value is given for a field that the network or the alphabet of `run` fixes."""
    free = {"model.dropout"} | (set() if run.recipe.model.learned_positions else {"model.context"})
    fixed = {f"model.{name}": value for name, value in sections["model"].items()}
    fixed["text.alphabet"] = sections["text"]["alphabet"]
    for name, value in fixed.items():
        if name not in free and given.get(name, value) != value:
            raise UserError(
                f"{name} is {given[name]}, and --from keeps the network and the alphabet of {run.path}, where it is "
                f"{value}; leave it out, or start a run without --from"
            )
