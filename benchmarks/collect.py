"""Keeps the runs of a study: a row for each finished run, in benchmarks/results/NAME.csv.

Run directories are large and are not kept; these rows are. They have the score of every run, its settings, and what it
depends on: text, commit, machine and versions. Gradient norms, where a run of the study itself measured them, go to
NAME-norms.csv.

    python -m benchmarks collect studies/norms
    python -m benchmarks collect studies/norms-c --name norms

DIR/sweep, the study that chose the hyperparameters, gives rows of the stage `sweep`. A run that is in the table already
is left alone, and is an error where it now has other bits. A score of the test part is read from test.json in the run
directory, as `charladder evaluate RUN --split test --json > RUN/test.json` writes it.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.norm_tables import NORM_COLUMNS, norm_rows
from benchmarks.result_tables import COLUMNS, RESULTS, STAGES, merge_rows, read_rows, run_key, write_rows
from charladder.errors import UserError
from charladder.input_files import read_bytes
from charladder.recipe import load_recipe_fields
from charladder.studies.plan import Plan, differing_settings
from charladder.studies.plan_file import read_plan
from charladder.studies.results import FinishedRun, StudyResults, collect_results


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks collect", description=__doc__)
    parser.add_argument("study", type=Path, help="the folder of a study, with plan.toml")
    parser.add_argument("--name", help="of the table (default: the name of the plan)")
    parser.add_argument("--text", help="the name of the text in the table (default: that of its file or corpus)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the tables")
    options = parser.parse_args(argv)
    plans = {stage: plan for stage in STAGES if (plan := read_stage(options.study, stage)) is not None}
    of_study = plans["final"].name if "final" in plans else plans["sweep"].name.removesuffix("-sweep")
    name = check_name(of_study if options.name is None else options.name)
    if options.text == "":
        raise UserError("--text is empty; give the name of the text, or leave it out")
    rows, norms = [], []
    for stage, plan in plans.items():
        results = collect_results(options.study / STAGES[stage], plan)
        report_missing(stage, results)
        of_runs = study_rows(stage, plan, results, options.text)
        rows += of_runs
        if stage == "final":
            for run, row in zip(results.finished, of_runs, strict=True):
                norms += norm_rows(row["text"], run)
    path, norms_path = options.results / f"{name}.csv", options.results / f"{name}-norms.csv"
    table, added = merge_rows(read_rows(path), rows, path)
    old_norms = read_rows(norms_path, NORM_COLUMNS)
    known = {run_key(row) for row in old_norms}
    all_norms = [*old_norms, *(row for row in norms if run_key(row) not in known)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if len(all_norms) > len(old_norms):
        write_rows(norms_path, sorted(all_norms, key=run_key), NORM_COLUMNS)
    if added:
        write_rows(path, table)
    print(f"{path}: {added} rows added or completed, {len(table)} in all")
    return 0


def read_stage(study: Path, stage: str) -> Plan | None:
    """The plan of a stage; None for a stage that the study does not have, or has not begun."""
    path = study / STAGES[stage] / "plan.toml"
    has_other = any((study / folder / "plan.toml").exists() for folder in STAGES.values())
    return None if has_other and not path.exists() else read_plan(path)


def check_name(name: str) -> str:
    """The name of a table. Raises UserError where it cannot be that of a file."""
    if not re.fullmatch(r"\w[\w.+=-]{0,99}", name):
        raise UserError(f"the name {name!r} cannot name a table; give --name with letters, digits and - _ . + = in it")
    return name


def report_missing(stage: str, results: StudyResults) -> None:
    """Prints the planned runs without a result."""
    for run in results.missing:
        print(f"{stage}: {run.arm}, seed {run.seed}: {run.reason}; left out", file=sys.stderr)


def study_rows(stage: str, plan: Plan, results: StudyResults, text: str | None = None) -> list[dict[str, str]]:
    """A row for each finished run of a plan, in their order. text: the name of the text, if not its own."""
    settings = differing_settings(plan)
    common = common_settings(plan)
    return [run_row(stage, run, settings[run.arm], common, text) for run in results.finished]


def common_settings(plan: Plan) -> dict[str, Any]:
    """The base recipe and the fields that all arms set in it; of a base recipe of the user, its fields."""
    if plan.base.endswith(".toml"):
        return {**load_recipe_fields(plan.base), **plan.fields}
    return {"base": plan.base, **plan.fields}


def run_row(
    stage: str, run: FinishedRun, settings: dict[str, Any], common: dict[str, Any], text: str | None
) -> dict[str, str]:
    """The row of one run."""
    clean = run.environment.get("git_clean")
    data, machine, versions = (entry(run.environment, name) for name in ("data", "machine", "versions"))
    values = {
        "text": text or short_text_name(str(data.get("name", ""))),
        "text_sha256": data.get("sha256"),
        "stage": stage,
        "arm": run.arm,
        "seed": run.seed,
        "bits_per_character": repr(run.bits),
        "test_bits_per_character": test_bits(run.path),
        "scored_characters": run.scored_characters,
        "trained_characters": run.curves.characters,
        "steps": run.curves.steps,
        "seconds": f"{run.curves.seconds:.3f}",
        "learning_rate": run.recipe.training.learning_rate,
        "settings": dump(settings),
        "common_settings": dump(common),
        "commit": run.environment.get("git"),
        "clean": None if clean is None else "yes" if clean else "no",
        "processor": machine.get("processor"),
        "threads": machine.get("threads"),
        "gpu": machine.get("gpu"),
        "versions": dump({"python": run.environment.get("python"), **versions}),
    }
    assert tuple(values) == COLUMNS
    return {name: "" if value is None else str(value) for name, value in values.items()}


def entry(environment: dict[str, Any], name: str) -> dict[str, Any]:
    """A table in environment.json; empty where there is none."""
    value = environment.get(name)
    return value if isinstance(value, dict) else {}


def short_text_name(name: str) -> str:
    """The name of a text without the folder and the suffix of its files; a corpus has neither."""
    return " + ".join(Path(part).stem if Path(part).is_absolute() else part for part in name.split(", "))


def test_bits(run: Path) -> str | None:
    """Bits per character of the test part; None where it was not scored."""
    path = run / "test.json"
    if not path.exists():
        return None
    try:
        score = json.loads(read_bytes(path))
        if score["split"] != "test":
            raise ValueError(f"it scored the part {score['split']!r}")
        return repr(float(score["bits_per_character"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is not a score of the test part: {error}; write it with charladder evaluate --split test --json"
        ) from None


def dump(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
