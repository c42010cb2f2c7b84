"""`charladder plot`: curves of runs, or the schedule of a recipe, as a picture."""

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from charladder.cli.options import Parser, add_json_option
from charladder.cli.terminal import Terminal, print_message
from charladder.errors import UserError, suggest_names
from charladder.recipe import load_recipe_fields, resolve
from charladder.run import open_run
from charladder.shell_words import quote_path
from charladder.strict_json import dumps
from charladder.studies.plots import X_AXES, draw_runs, draw_schedule
from charladder.studies.results import RunCurves, read_curves
from charladder.text import Alphabet

_MAX_TERMS = 24
_FORMATS = ".png", ".svg"


def make_parser() -> Parser:
    parser = Parser(
        "plot",
        "Curves of several runs: bits per character of validation text and of training batches. With --schedule, a "
        "picture of when the layers of a RUN or RECIPE contribute to the loss, and how much.",
        "charladder plot runs/ladder-1 runs/ladder-2 --terms main,layer1.target1",
        "charladder plot t12 --schedule --out schedule.svg",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories; a recipe, with --schedule")
    parser.add_argument("--out", default="plot.png", metavar="FILE", help="a .png or .svg file")
    parser.add_argument("--force", action="store_true", help="overwrite FILE if it exists")
    parser.add_argument("--by", choices=tuple(X_AXES), help="the horizontal axis of curves (default characters)")
    parser.add_argument("--terms", metavar="NAME,NAME", help="terms of the training loss (default main)")
    parser.add_argument("--schedule", action="store_true", help="draw the schedule of the layers in place of curves")
    add_json_option(parser)
    return parser


def main(argv: list[str]) -> int:
    options = make_parser().parse(argv)
    path = Path(options.out)
    _check_output_path(path, options.force)
    facts = _plot_schedule(options, path) if options.schedule else _plot_runs(options, path)
    if options.json:
        print(dumps({"plot": str(path), **facts}))
        return 0
    console = Terminal()
    for run in facts.get("runs", []):
        bits = run["valid_bits_per_character"]
        scored = f" (the first {run['valid_characters']:,} characters)" if run["valid_part"] else ""
        end = "no score of the valid part yet" if bits is None else f"valid: {bits:.4f} bits per character{scored}"
        line = f"{run['run']}: {run['steps']:,} steps, {run['characters']:,} characters, {run['seconds']:.0f} s, {end}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"picture: {path}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _check_output_path(path: Path, force: bool) -> None:
    """Raises UserError unless a picture can be written to `path`."""
    if path.suffix.lower() not in _FORMATS:
        raise UserError(f"--out is {str(path)!r}; its name must end in .png or .svg")
    if path.is_dir():
        raise UserError(f"--out is {str(path)!r}, which is a directory; give the name of a file")
    if not path.parent.is_dir():
        raise UserError(f"there is no directory {path.parent} for {path.name}; create it first")
    if os.path.lexists(path) and not force:
        raise UserError(f"{path} exists and is not overwritten; choose another --out, or add --force")


def _plot_runs(options: Namespace, path: Path) -> dict[str, Any]:
    """Draws the curves of the runs; returns the contents of --json."""
    names = list(dict.fromkeys(options.runs))
    _check_alphabets({name: open_run(Path(name)).alphabet for name in names})
    runs = {name: _read_run_curves(name) for name in names}
    terms = ["main"] if options.terms is None else _parse_terms(options.terms, runs)
    by = options.by or "characters"
    for name, curves in runs.items():
        absent = [term for term in terms if term not in curves.terms]
        if absent:
            print_message(f"note: {name} has no term {absent[0]}" + (" and others" if len(absent) > 1 else ""))
    draw_runs(runs, terms, by, path)
    scores = {name: curves.final_score or {} for name, curves in runs.items()}
    return {
        "by": by,
        "terms": terms,
        "runs": [
            {
                "run": name,
                "steps": curves.steps,
                "characters": curves.characters,
                "seconds": curves.seconds,
                "valid_bits_per_character": scores[name].get("bits_per_character"),
                "valid_characters": scores[name].get("characters"),
                "valid_part": bool(scores[name].get("part")),
            }
            for name, curves in runs.items()
        ],
    }


def _check_alphabets(alphabets: dict[str, Alphabet]) -> None:
    """Raises UserError where the characters of some runs are bytes and those of others Unicode characters, whose bits
    per character cannot be compared. Prints a note where runs have different letters."""
    by_kind = {alphabet.kind: name for name, alphabet in reversed(alphabets.items())}
    if len(by_kind) > 1:
        raise UserError(
            f"a character of {by_kind['bytes']} is a byte and one of {by_kind['letters']} is a Unicode character, so "
            "their bits per character have no common axis; plot the runs of each alphabet by themselves"
        )
    by_letters = {alphabet.letters: name for name, alphabet in reversed(alphabets.items())}
    if len(by_letters) > 1:
        print_message(
            f"note: {' and '.join(reversed(by_letters.values()))} have different letters; compare their bits with care"
        )


def _read_run_curves(name: str) -> RunCurves:
    """Reads the curves of a run. Raises UserError for a run without metrics."""
    if (Path(name) / "metrics.jsonl").is_file():
        curves = read_curves(Path(name))
        if curves.terms:
            return curves
    if not open_run(Path(name)).has_text:
        raise UserError(
            f"{name} has no curves, because its network was imported; "
            f"`charladder train DATA --from {quote_path(name)}` starts a run that has some"
        )
    raise UserError(f"{name} has no metrics yet; train it for a few steps")


def _parse_terms(given: str, runs: dict[str, RunCurves]) -> list[str]:
    """The names in --terms. Raises UserError, with the most similar name, for a term that no run has."""
    known = dict.fromkeys(term for curves in runs.values() for term in curves.terms)
    names = list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    if not names:
        raise UserError(f"--terms is {given!r}; give names of terms separated by commas, such as main,layer1.target1")
    for name in names:
        if name not in known:
            raise UserError(f"--terms: no run has a term called {name!r}{suggest_names(name, known)}")
    if len(names) > _MAX_TERMS:
        raise UserError(f"--terms names {len(names)} terms; the maximum is {_MAX_TERMS}")
    return names


def _plot_schedule(options: Namespace, path: Path) -> dict[str, Any]:
    """Draws the schedule of one run or recipe; returns the contents of --json."""
    if options.by is not None or options.terms is not None:
        raise UserError("--by and --terms cannot be combined with --schedule; leave them out")
    if len(options.runs) > 1:
        raise UserError(f"--schedule draws one run or recipe, but {len(options.runs)} are given")
    (name,) = options.runs
    recipe = open_run(Path(name)).recipe if Path(name).is_dir() else resolve(load_recipe_fields(name))
    draw_schedule(recipe.objective, recipe.model.layers, name, path)
    return {"schedule": name, "layers": recipe.model.layers, "targets": recipe.objective.targets}
