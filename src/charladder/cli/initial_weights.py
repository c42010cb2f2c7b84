"""`train NEW_TEXT --from RUN`: the recipe of a new run that begins with the weights of another."""

from argparse import Namespace
from pathlib import Path

from charladder.cli.options import BUDGETS, overrides
from charladder.errors import UserError
from charladder.recipe import Raw, tables
from charladder.run import Run, open_run
from charladder.trainer_factory import initial_weights

TEXT = "alphabet", "unknown", "boundaries", "order"  # settings of text that are those of RUN; others are of NEW_TEXT


def fields_from(options: Namespace) -> tuple[Raw, Run]:
    """The recipe fields of RUN with those given on the command line over them, and RUN.

    Raises UserError for fields that its network or its alphabet cannot have, and where RUN has no weights.
    """
    run = open_run(Path(options.source), options.weights)
    given = overrides(options)
    if options.recipe is not None:
        raise UserError(f"--from takes the recipe of {run.path}; leave --recipe out (fields may be given one by one)")
    if not options.data:
        raise UserError("--from begins a new run on another text; give that text as DATA")
    sections = tables(run.recipe)
    check(run, given, sections)
    raw: Raw = {"recipe": run.recipe.recipe}
    for section in ("model", "objective", "training"):
        raw |= {f"{section}.{name}": value for name, value in sections[section].items()}
    raw |= {f"text.{name}": sections["text"][name] for name in TEXT}
    if BUDGETS & set(given):
        raw = {name: value for name, value in raw.items() if name not in BUDGETS}
    raw |= {"training.initial_run": str(run.path.absolute()), "training.initial_sha256": initial_weights(run)}
    return {**raw, **given}, run


def check(run: Run, given: Raw, sections: Raw) -> None:
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
