"""`charladder study`: trains the runs of a plan and reports their differences."""

import contextlib
import dataclasses
import math
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from charladder.cli.notes import print_text_notes
from charladder.cli.options import Parser, add_json_option
from charladder.cli.progress import reading_progress
from charladder.cli.signals import interrupt_on_signal
from charladder.cli.study_stages import StudyTraining, format_choice, print_line, report_json, run_study, write_reports
from charladder.cli.terminal import Terminal, print_message
from charladder.cli.tracking import add_track_option, check_track_option
from charladder.errors import UserError
from charladder.run import split_corpus
from charladder.strict_json import dumps
from charladder.studies.directory import check_study_directory, list_planned_runs
from charladder.studies.plan import (
    BUDGET_FIELDS,
    Plan,
    differing_settings,
    format_option_value,
    resolve_recipe,
)
from charladder.studies.plan_file import parse_fields, parse_seeds, read_plan
from charladder.studies.runner import default_jobs
from charladder.studies.sweep import check_plan_and_sweep, sweep_directory, sweep_plan, with_first_values
from charladder.studies.sweep_choice import read_choice
from charladder.text import Corpus, check_data_exists, missing_downloads, open_corpus


def make_parser() -> Parser:
    parser = Parser(
        "study",
        "Trains every arm of PLAN with every seed, and reports which differences are real. PLAN is a plan by name "
        "(paper: Table 4 of the paper, on a small scale) or a TOML file. Finished runs are never repeated: after an "
        "interruption, the same command continues.",
        "charladder study paper --seeds 3",
        "charladder study mine.toml novel.txt --set training.minutes=2 --dry-run",
    )
    parser.add_argument("plan", metavar="PLAN", help="a plan by name, or FILE.toml")
    parser.add_argument("data", nargs="*", default=[], metavar="DATA", help="the text, in place of the plan's")
    parser.add_argument("--out", metavar="DIR", help="directory of the runs (default studies/PLAN)")
    parser.add_argument("--jobs", metavar="INT", help="runs at once (default: as many as cores or GPUs allow)")
    parser.add_argument("--seeds", metavar="INT", help="the seeds 0 to N-1, in place of the plan's")
    help_text = "a recipe field of all arms (see charladder recipe); repeatable"
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help=help_text)
    parser.add_argument("--device", metavar="TEXT", help="--set training.device=TEXT: cpu, cuda or mps")
    help_text = "save and stop after so many minutes; the same command continues"
    parser.add_argument("--stop-after", metavar="MINUTES", help=help_text)
    parser.add_argument("--dry-run", action="store_true", help="check the plan and list the runs; train nothing")
    parser.add_argument("--report-only", action="store_true", help="only write the report of finished runs")
    add_track_option(parser)
    add_json_option(parser)
    return parser


def main(argv: list[str]) -> int:
    options = make_parser().parse(argv)
    check_track_option(options.track)
    settings = [*options.set, *([] if options.device is None else [f"training.device={options.device}"])]
    plan = _apply_options(read_plan(options.plan), options.data, options.seeds, settings)
    deadline = math.inf if options.stop_after is None else time.monotonic() + 60 * _parse_minutes(options.stop_after)
    folder = Path(options.out if options.out is not None else Path("studies") / plan.name)
    jobs = default_jobs(with_first_values(plan)) if options.jobs is None else _parse_count("--jobs", options.jobs)
    console = Terminal(stderr=options.json, ignore_write_errors=True)
    if options.report_only:
        return _report_only(console, plan, folder, options.json)
    chosen = read_choice(plan, folder) if plan.sweep else None
    if plan.sweep is None:
        check_study_directory(plan, folder)
    _check_data(sweep_plan(plan) if plan.sweep else plan, fetch=not options.dry_run)
    if options.dry_run:
        return _print_dry_run(console, plan, chosen, folder, jobs, options.json)
    # A signal between the stages ends the command: what has finished is on the disk.
    with interrupt_on_signal():
        return run_study(
            plan, chosen, folder, StudyTraining(console, jobs, options.track, argv, deadline), options.json
        )


def _report_only(console: Console, plan: Plan, folder: Path, as_json: bool) -> int:
    """Writes the report of the runs in a folder, of those of the sweep as long as there are no others."""
    directory = sweep_directory(folder)
    if plan.sweep and not (folder / "plan.toml").is_file() and (directory / "plan.toml").is_file():
        folder = directory
    if not (folder / "plan.toml").is_file():
        raise UserError(f"{folder} has no plan.toml, so no study was started there; see --out")
    paths = write_reports(console, folder)
    if as_json:
        print(dumps(report_json(folder, [], paths)))
    return 0


def _apply_options(plan: Plan, data: list[str], seeds: str | None, fields: list[str]) -> Plan:
    """The plan with the values of the command line. Raises UserError for an invalid plan."""
    if data:
        plan = dataclasses.replace(plan, data=tuple(data))
    if seeds is not None:
        plan = dataclasses.replace(plan, seeds=parse_seeds(_parse_count("--seeds", seeds)))
    given: dict[str, Any] = {}
    for option in fields:
        name, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"--set {option} has no value; write --set FIELD=VALUE")
        given |= parse_fields({name.replace("-", "_"): value}, "--set")
    overridden = BUDGET_FIELDS if set(BUDGET_FIELDS) & set(given) else ()  # a run has one budget
    fields_of_plan = {name: value for name, value in plan.fields.items() if name not in overridden}
    plan = dataclasses.replace(plan, fields={**fields_of_plan, **given})
    check_plan_and_sweep(plan)
    return plan


def _check_data(plan: Plan, fetch: bool = True) -> None:
    """Raises UserError, before any run starts, for a text that cannot be read or is too short.

    fetch: whether texts may be downloaded. If not, and one is not in the cache, only the existence of the others is
    checked.
    """
    to_download = [] if fetch else missing_downloads(plan.data)
    if to_download:
        print_message(
            f"note: {', '.join(to_download)} is not in the cache and would be downloaded; the text is not checked"
        )
        for data in plan.data:
            if data not in to_download:
                check_data_exists(data)
        return
    corpora: dict[Any, Corpus] = {}
    for arm in plan.arms:
        recipe = resolve_recipe(plan, arm, plan.seeds[0])
        text, window = recipe.text, recipe.model.context + recipe.objective.targets
        kind = text.alphabet, text.encoding, text.unknown
        if kind not in corpora:
            with reading_progress() as report:
                corpora[kind] = open_corpus(plan.data, *kind, report)
            print_text_notes(corpora[kind])
        parts = split_corpus(recipe, corpora[kind])
        if parts.train[1] - parts.train[0] < window or parts.valid[1] <= parts.valid[0]:
            raise UserError(
                f"arm {arm.name!r} of the plan needs {window} characters to train on and a valid part, and "
                f"{corpora[kind].name} has {len(corpora[kind].ids_N):,} characters; set text.valid and text.test lower"
            )


def _parse_count(option: str, text: str) -> int:
    if not (text.isdecimal() and text.isascii() and 1 <= int(text) <= 1000):
        raise UserError(f"{option} is {text!r}; it must be a whole number from 1 to 1000")
    return int(text)


def _parse_minutes(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (minutes := float(text)) < math.inf:
            return minutes
    raise UserError(f"--stop-after is {text!r}; it must be a number of minutes above 0")


def _print_dry_run(console: Console, plan: Plan, chosen: Plan | None, folder: Path, jobs: int, as_json: bool) -> int:
    """Prints the runs, and the settings in which the arms differ; returns the exit code. chosen: the plan with the
    choice of its sweep, if the comparison has begun."""
    differ, runs = differing_settings(with_first_values(plan)), list_planned_runs(plan, folder)
    if plan.sweep is not None:
        for arm in plan.arms:
            for name in plan.sweep.values_for(arm.name):
                differ[arm.name].pop(name, None)
    trials = list_planned_runs(sweep_plan(plan), sweep_directory(folder)) if plan.sweep else []
    if as_json:
        sweep = {"sweep": [str(run.path) for run in trials]} if trials else {}
        print(
            dumps({"plan": plan.name, "jobs": jobs, "arms": differ, **sweep, "runs": [str(run.path) for run in runs]})
        )
        return 0
    print_line(
        console, f"{plan.name}: {len(plan.arms)} arms, {len(plan.seeds)} seeds, {len(runs)} runs, {jobs} at once"
    )
    for arm, fields in differ.items():
        settings = ", ".join(f"{name} = {format_option_value(value)}" for name, value in fields.items())
        print_line(console, f"  {arm}{' (baseline)' if arm == plan.baseline else ''}: {settings or 'the base recipe'}")
    if plan.sweep:
        print_line(console, f"sweep, before them: {len(plan.sweep.seeds)} seeds, {len(trials)} runs")
        for arm in plan.arms:
            values = plan.sweep.values_for(arm.name)
            tried = ", ".join(f"{name} = {' | '.join(map(format_option_value, values[name]))}" for name in values)
            print_line(console, f"  {arm.name}: {tried or 'nothing'}")
    for sentence in format_choice(plan, chosen) if chosen else ():
        print_line(console, sentence)
    for run in (*trials, *runs):
        print_line(console, f"{run.path}{' (started)' if run.path.exists() else ''}")
    return 0
