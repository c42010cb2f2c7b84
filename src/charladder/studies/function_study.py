"""`studies.run`: does a change help a model? Any training function, several arms, several seeds."""

import contextlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charladder.atomic_io import write_text
from charladder.errors import UserError, suggest_names
from charladder.studies import power
from charladder.studies.bound_values import find_bound_values
from charladder.studies.directory import lock_study_directory
from charladder.studies.function_arguments import (
    check_arms,
    check_function,
    check_metric,
    check_positive,
    check_probability,
    check_processes,
    parse_baseline,
    parse_path,
    parse_study_folder,
    parse_study_seeds,
)
from charladder.studies.function_report import FunctionStudy, RecordedCall, arms_tested, build_function_report
from charladder.studies.function_runs import run_calls
from charladder.studies.html_report import to_html
from charladder.studies.markdown_report import to_markdown
from charladder.studies.records import (
    FINISHED,
    INVALID,
    Metrics,
    PlannedCall,
    RunRecord,
    TrainFunction,
    default_folder,
    hash_source,
    name_of_function,
    plan_calls,
    read_record,
)
from charladder.studies.report import ArmReport, StudyReport
from charladder.studies.statistics import SIGNIFICANCE_LEVEL, student_t
from charladder.studies.text_report import to_text


@dataclass(frozen=True)
class ArmDifference:
    """An arm minus the baseline, paired by seed.

    mean, low, high: the mean difference and its 95% interval by Student's t. p: of the paired t-test; p_holm: after
    Holm's correction over the arms. smallest_effect: the difference that this number of seeds shows with a probability
    of 80%. Numbers that are not known are NaN. seeds: those with a result of both arms. verdict: a sentence; it begins
    with `helps` or `harms` where that is shown.
    """

    mean: float
    low: float
    high: float
    p: float
    p_holm: float
    smallest_effect: float
    seeds: tuple[int, ...]
    verdict: str


@dataclass(frozen=True)
class FinishedCall:
    """A finished run. metrics: its last ones. curve: (step, metrics); empty where train returned its metrics."""

    arm: str
    seed: int
    metrics: Metrics
    curve: tuple[tuple[float, Metrics], ...]
    seconds: float
    path: Path


@dataclass(frozen=True)
class Result:
    """The result of a study. `print(result)` shows it, `result.report(path)` writes it.

    means: of the metric, by arm; without the arms of which no run has finished. differences: by arm, without the
    baseline. runs: the finished ones. data: all that the report shows.
    """

    means: dict[str, float]
    differences: dict[str, ArmDifference]
    runs: tuple[FinishedCall, ...]
    data: StudyReport

    def __str__(self) -> str:
        return to_text(self.data)

    def report(self, path: str | Path) -> Path:
        """Writes the report, and returns its path: one page for `.html`, text and tables for `.md`. HTML needs the
        extra `study`. Raises UserError for another suffix, and where the file cannot be written."""
        path = parse_path(path, "path")
        writers = {".html": to_html, ".md": to_markdown}
        if path.suffix.lower() not in writers:
            raise UserError(f"the report {path} is of no known kind; its name must end in .html or .md")
        text = writers[path.suffix.lower()](self.data)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
        except (OSError, ValueError) as error:
            raise UserError(f"the report {str(path)!r} cannot be written: {error}") from None
        return path

    def seeds_needed(self, effect: float, arm: str | None = None, power: float = power.POWER) -> int:
        """The number of seeds, those of this study included, with which a difference of `effect` is shown with the
        probability `power`.

        It is at least 5, as a claim needs. It is computed from the spread of the differences in this study, which few
        seeds give only roughly: the number may be wrong by a factor of several after three seeds. arm: by default the
        arm that needs most. Raises UserError with fewer than three seeds.
        """
        check_positive("effect", effect)
        check_probability("power", power)
        if arm is not None and not isinstance(arm, str):
            raise UserError(f"arm is {arm!r}; it must be the name of an arm")
        if arm is not None and arm not in self.differences:
            raise UserError(f"arm {arm!r} is not compared with the baseline{suggest_names(arm, self.differences)}")
        compared = [one for one in self.data.arms if one.name in ([arm] if arm is not None else self.differences)]
        return max(self._seeds_needed_by(one, effect, power) for one in compared)

    def _seeds_needed_by(self, one: ArmReport, effect: float, probability: float) -> int:
        difference = one.difference
        done = len(difference.seeds) if difference else 0
        if difference is None or difference.deviation is None or done < power.MIN_SEEDS_FOR_PLAN:
            raise UserError(
                f"arm {one.name!r} has {done} seeds in common with the baseline; planning needs at least "
                f"{power.MIN_SEEDS_FOR_PLAN}"
            )
        level = SIGNIFICANCE_LEVEL / arms_tested(self.data.arms)
        needed = power.seeds_needed(effect, difference.deviation, probability, level)
        if needed is None:
            raise UserError(f"an effect of {effect:g} needs more than {power.MAX_SEEDS:,} seeds; give a larger one")
        return needed


def run(
    train: TrainFunction,
    *,
    arms: Mapping[str, Any],
    metric: str,
    higher_is_better: bool,
    seeds: int | Sequence[int] = 5,
    baseline: str | None = None,
    effect: float | None = None,
    folder: str | Path | None = None,
    processes: int = 1,
    quiet: bool = False,
) -> Result:
    """Calls `train(settings, seed)` for every arm and seed, and compares the arms with the baseline.

    train: returns a mapping of metrics, or is a generator of pairs (step, metrics), of which the last pair and what it
        returns count. It must seed its random numbers with `seed`, so that the arms of a seed begin alike.
    arms: name to settings, which are numbers, texts, lists and dicts. Each call gets a copy.
    metric: the name of the metric that is compared.
    seeds: their number (0, 1, ...), or a list. A claim needs at least 5.
    baseline: the arm that the others are compared with; by default the first.
    effect: the difference that would matter. The result then says how many seeds it needs, and whether the intervals
        exclude it.
    folder: of the records; by default studies/ and the name of the function. A finished run is not repeated while the
        function's name, the numbers and texts bound to it (arguments of a functools.partial, defaults, closures,
        attributes of an instance), the arm's name, its settings and the seed are the same. A changed source text of
        `train` itself, and changed lists, dicts and dataclasses bound to it, give a warning. Other objects bound to it
        give one each time. Other changes of the code or of the data are not seen.
    processes: how many runs at once, each in a process of its own; 1: all in this process.
    quiet: whether no line is printed (to standard error) for each run.

    A run that fails is recorded, the others go on, and the next call tries it again. Ctrl-C loses unfinished runs only.
    Raises UserError for a wrong argument, where train returns no metrics, and where no arm can be compared.
    """
    check_function(train)
    arms = dict(arms) if isinstance(arms, Mapping) else arms
    check_arms(arms)
    check_metric(metric, higher_is_better)
    if effect is not None:
        check_positive("effect", effect)
    check_processes(processes)
    name, study_seeds, baseline = name_of_function(train), parse_study_seeds(seeds), parse_baseline(baseline, arms)
    folder = parse_study_folder(default_folder(name) if folder is None else folder)
    student_t()  # raises UserError without scipy, before hours of training
    bound = find_bound_values(train)
    source, unseen = hash_source(train), tuple(bound.unseen)
    study = FunctionStudy(name, arms, study_seeds, metric, higher_is_better, baseline, effect, folder, source, unseen)
    calls = plan_calls(name, arms, study_seeds, folder, bound.fixed)
    with lock_study_directory(folder):
        recorded = _run_all(train, study, calls, processes, quiet)
    return _make_result(study, recorded)


def _run_all(
    train: TrainFunction, study: FunctionStudy, calls: Sequence[PlannedCall], processes: int, quiet: bool
) -> list[RecordedCall]:
    """Makes the calls that have no finished record, and returns all records in the order of the calls."""
    records: dict[PlannedCall, RunRecord] = {}
    for call in calls:
        record = read_record(call)
        if record is not None and record.state == FINISHED:
            _check_metric(call, record, study.metric)
            records[call] = record
    waiting = [call for call in calls if call not in records]
    if records:
        _print(f"{len(records)} of {len(calls)} runs are finished, in {study.folder}", quiet)
    try:
        with contextlib.closing(run_calls(train, waiting, processes, study.metric)) as ended:
            for call, record in ended:
                records[call] = record
                _print(_describe(call, record, study.metric), quiet)
                if record.state == INVALID:
                    raise UserError(
                        f"arm {call.arm!r}, seed {call.seed}: {record.error} (this run is not kept; the next call "
                        "repeats it)"
                    )
    except KeyboardInterrupt:
        _print(f"interrupted; the same call continues after {len(records)} of {len(calls)} runs", quiet)
        raise
    return [(call, records[call]) for call in calls]


def _check_metric(call: PlannedCall, record: RunRecord, metric: str) -> None:
    """Raises UserError where a run that was kept, of a call with another metric, does not have this one at all."""
    if metric not in record.metrics and not any(metric in metrics for _, metrics in record.curve):
        raise UserError(
            f"arm {call.arm!r}, seed {call.seed}: the finished run has no metric {metric!r} that is a number"
            f"{suggest_names(metric, record.metrics)}; to repeat it, delete {call.path} or give another folder"
        )


def _describe(call: PlannedCall, record: RunRecord, metric: str) -> str:
    """A line about an ended run."""
    result = (
        f"{metric} {record.metrics.get(metric, math.nan):g}" if record.state == FINISHED else f"failed: {record.error}"
    )
    return f"{call.arm}, seed {call.seed}: {result}, {record.seconds:.1f} s"


def _print(line: str, quiet: bool) -> None:
    if not quiet:
        print(line, file=sys.stderr)


def _make_result(study: FunctionStudy, recorded: Sequence[RecordedCall]) -> Result:
    """Raises UserError where no arm can be compared with the baseline."""
    data = build_function_report(study, recorded)
    compared = {one.name: one for one in data.arms if one.name != study.baseline}
    if not any(one.difference for one in compared.values()):
        reasons = "; ".join(dict.fromkeys(f"{run.arm}, seed {run.seed}: {run.reason}" for run in data.missing[:2]))
        raise UserError(f"no arm has a seed in common with the baseline {study.baseline!r}; {reasons}")
    runs = [
        FinishedCall(call.arm, call.seed, record.metrics, record.curve, record.seconds, call.path)
        for call, record in recorded
        if record.state == FINISHED
    ]
    return Result(
        means={one.name: one.score.mean for one in data.arms if one.score},
        differences={name: _difference(one) for name, one in compared.items()},
        runs=tuple(runs),
        data=data,
    )


def _difference(one: ArmReport) -> ArmDifference:
    found = one.difference
    numbers = (found.mean, found.low, found.high, found.p) if found else (None,) * 4
    known = [math.nan if number is None else number for number in (*numbers, one.p_holm, one.smallest_effect)]
    return ArmDifference(*known, seeds=found.seeds if found else (), verdict=one.verdict)
