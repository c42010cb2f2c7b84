"""`charladder study`: trains the runs of a plan and reports their differences."""

import argparse
import contextlib
import dataclasses
import math
import shlex
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from charladder.cli.notes import print_text_notes
from charladder.cli.options import Parser, add_json_option
from charladder.cli.progress import reading_progress
from charladder.cli.signals import INTERRUPTED_EXIT_CODE, stop_on_signal
from charladder.cli.study_progress import StudyProgress
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
from charladder.studies.runner import RunFailed, RunFinished, RunInterrupted, default_jobs, run_plan
from charladder.studies.sweep import (
    check_plan_and_sweep,
    sweep_directory,
    sweep_plan,
    tuned_plan,
    values_at_edge,
    with_first_values,
)
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
    if options.dry_run:
        if plan.sweep is None:
            check_study_directory(plan, folder)
        else:
            check_study_directory(sweep_plan(plan), sweep_directory(folder))
        _check_data(with_first_values(plan), fetch=False)
        return _print_dry_run(console, plan, folder, jobs, options.json)
    if options.report_only:
        if not (folder / "plan.toml").is_file():
            raise UserError(f"{folder} has no plan.toml, so no study was started there; see --out")
        _write_report(console, folder, [], options.json)
        return 0
    _check_data(with_first_values(plan))
    if plan.sweep is not None:
        tuned = _run_sweep(console, plan, folder, jobs, options, argv, deadline)
        if isinstance(tuned, int):
            return tuned
        plan = tuned
    code, ends = _train_all(console, plan, folder, jobs, options, argv, deadline)
    if code != INTERRUPTED_EXIT_CODE:
        _write_report(console, folder, ends, options.json)
    return code


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


def _print_line(console: Console, sentence: str) -> None:
    """Prints a line without wrapping or markup."""
    console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def _print_dry_run(console: Console, plan: Plan, folder: Path, jobs: int, as_json: bool) -> int:
    """Prints the runs, and the settings in which the arms differ; returns the exit code."""
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
    _print_line(
        console, f"{plan.name}: {len(plan.arms)} arms, {len(plan.seeds)} seeds, {len(runs)} runs, {jobs} at once"
    )
    for arm, fields in differ.items():
        settings = ", ".join(f"{name} = {format_option_value(value)}" for name, value in fields.items())
        _print_line(console, f"  {arm}{' (baseline)' if arm == plan.baseline else ''}: {settings or 'the base recipe'}")
    if plan.sweep:
        _print_line(console, f"sweep, before them: {len(plan.sweep.seeds)} seeds, {len(trials)} runs")
        for arm in plan.arms:
            values = plan.sweep.values_for(arm.name)
            tried = ", ".join(f"{name} = {' | '.join(map(format_option_value, values[name]))}" for name in values)
            _print_line(console, f"  {arm.name}: {tried or 'nothing'}")
    for run in (*trials, *runs):
        _print_line(console, f"{run.path}{' (started)' if run.path.exists() else ''}")
    return 0


def _run_sweep(
    console: Console, plan: Plan, folder: Path, jobs: int, options: argparse.Namespace, argv: list[str], deadline: float
) -> Plan | int:
    """Trains the runs of the sweep and writes its report; returns the plan with the chosen values, or the exit code of
    an interruption."""
    trials, directory = sweep_plan(plan), sweep_directory(folder)
    _print_line(console, f"sweep: {directory}")
    code, ends = _train_all(console, trials, directory, jobs, options, argv, deadline)
    if code == INTERRUPTED_EXIT_CODE:
        return code
    bits = {(end.run.arm.name, end.run.seed): end.bits for end in ends if isinstance(end, RunFinished)}
    tuned = tuned_plan(plan, bits)
    _write_report(console, directory, ends, as_json=False)
    for sentence in values_at_edge(plan, tuned):
        print_message(f"note: {sentence}")
    return tuned


def _train_all(
    console: Console, plan: Plan, folder: Path, jobs: int, options: argparse.Namespace, argv: list[str], deadline: float
) -> tuple[int, list[RunFinished | RunFailed | RunInterrupted]]:
    """Trains the runs until `deadline`, of time.monotonic(), and shows their progress; returns the exit code and how
    the runs ended."""
    signals: list[int] = []
    ends: list[RunFinished | RunFailed | RunInterrupted] = []
    events = run_plan(plan, folder, jobs, lambda: bool(signals) or time.monotonic() > deadline, options.track)
    # Closing the generator stops all processes, also when an error is raised here.
    with stop_on_signal(signals), StudyProgress(console, plan, jobs) as table, contextlib.closing(events):
        for event in events:
            table.show(event)
            if isinstance(event, RunFinished | RunFailed | RunInterrupted):
                ends.append(event)
    failed = [end for end in ends if isinstance(end, RunFailed)]
    for end in failed:
        print_message(f"{end.run.path} failed with exit code {end.exit_code}; its log is {end.run.log_path}")
    if signals or len(ends) < len(list_planned_runs(plan, folder)) or any(isinstance(e, RunInterrupted) for e in ends):
        _print_line(console, f"stopped and saved; continue with: charladder study {shlex.join(argv)}")
        return INTERRUPTED_EXIT_CODE, ends
    return 1 if failed else 0, ends


def _write_report(
    console: Console, folder: Path, ends: list[RunFinished | RunFailed | RunInterrupted], as_json: bool
) -> None:
    """Writes the report and prints its paths."""
    # Imported here because it loads scipy and matplotlib.
    from charladder.studies.report_files import write_report

    paths = write_report(folder)
    for path in paths:
        _print_line(console, f"report: {path}")
    if as_json:
        runs = [
            {
                "run": str(end.run.path),
                "arm": end.run.arm.name,
                "seed": end.run.seed,
                "valid_bits_per_character": end.bits if isinstance(end, RunFinished) else None,
                "exit_code": end.exit_code if isinstance(end, RunFailed) else 0,
            }
            for end in ends
        ]
        print(dumps({"folder": str(folder), "runs": runs, "report": [str(path) for path in paths]}))
