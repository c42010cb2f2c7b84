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
from charladder.studies.directory import check_is_folder, lock_study_directory
from charladder.studies.function_report import FunctionStudy, RecordedCall, arms_tested, build_function_report
from charladder.studies.function_runs import run_calls
from charladder.studies.html_report import to_html
from charladder.studies.markdown_report import to_markdown
from charladder.studies.plan_file import parse_seeds
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

_MIN_SEEDS = 2  # one seed has no interval


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
        extra `study`. Raises UserError for another suffix."""
        path = Path(path)
        writers = {".html": to_html, ".md": to_markdown}
        if path.suffix.lower() not in writers:
            raise UserError(f"the report {path} is of no known kind; its name must end in .html or .md")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, writers[path.suffix.lower()](self.data))
        return path

    def seeds_needed(self, effect: float, arm: str | None = None, power: float = power.POWER) -> int:
        """The number of seeds, those of this study included, with which a difference of `effect` is shown with the
        probability `power`.

        It is at least 5, as a claim needs. It is computed from the spread of the differences in this study, which few
        seeds give only roughly: the number may be wrong by a factor of several after three seeds. arm: by default the
        arm that needs most. Raises UserError with fewer than three seeds.
        """
        _check_positive("effect", effect)
        if not 0 < power < 1:
            raise UserError(f"power is {power}; it must lie between 0 and 1")
        if arm is not None and arm not in self.differences:
            raise UserError(f"arm {arm!r} is not compared with the baseline{suggest_names(arm, self.differences)}")
        compared = [one for one in self.data.arms if one.name in ([arm] if arm else self.differences)]
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

    train: returns a mapping of metrics, or is a generator of pairs (step, metrics), whose last metrics count. It must
        seed its random numbers with `seed`, so that the arms of a seed begin alike.
    arms: name to settings, which are numbers, texts, lists and dicts. Each call gets a copy.
    metric: the name of the metric that is compared.
    seeds: their number (0, 1, ...), or a list. A claim needs at least 5.
    baseline: the arm that the others are compared with; by default the first.
    effect: the difference that would matter. The result then says how many seeds it needs, and whether the intervals
        exclude it.
    folder: of the records; by default studies/ and the name of the function. A finished run is not repeated while the
        function's name, the arm's name, its settings and the seed are the same. Changes of the code or of the data are
        not seen, except that a changed source text of `train` itself gives a warning.
    processes: how many runs at once, each in a process of its own; 1: all in this process.
    quiet: whether no line is printed (to standard error) for each run.

    A run that fails is recorded, the others go on, and the next call tries it again. Ctrl-C loses unfinished runs only.
    Raises UserError for a wrong argument, where train returns no metrics, and where no arm can be compared.
    """
    arms = dict(arms) if isinstance(arms, Mapping) else arms
    name, study_seeds = name_of_function(train), _check_arguments(train, arms, seeds, effect, processes)
    baseline = next(iter(arms)) if baseline is None else baseline
    if baseline not in arms:
        raise UserError(f"the baseline {baseline!r} is none of the arms{suggest_names(baseline, arms)}")
    student_t()  # raises UserError without scipy, before hours of training
    folder = default_folder(name) if folder is None else Path(folder)
    check_is_folder(folder)
    study = FunctionStudy(
        name, arms, study_seeds, metric, higher_is_better, baseline, effect, folder, hash_source(train)
    )
    calls = plan_calls(name, arms, study_seeds, folder)
    with lock_study_directory(folder):
        recorded = _run_all(train, study, calls, processes, quiet)
    return _make_result(study, recorded)


def _check_arguments(train: Any, arms: Any, seeds: Any, effect: Any, processes: Any) -> tuple[int, ...]:
    """Raises UserError for arguments that cannot be used; returns the seeds."""
    if not callable(train):
        raise UserError(f"train is {train!r}; it must be a function of an arm's settings and a seed")
    if not isinstance(arms, dict) or not all(isinstance(arm, str) and arm for arm in arms):
        raise UserError('arms must be a mapping from names to settings, such as {"none": {}, "aux": {"weight": 0.3}}')
    if len(arms) < 2:
        given = f"only {next(iter(arms))!r}" if arms else "no arm"
        raise UserError(f"arms has {given}; a comparison needs a baseline and at least one other arm")
    parsed = parse_seeds(
        list(seeds) if isinstance(seeds, Sequence) and not isinstance(seeds, str) else seeds, "the study"
    )
    if len(parsed) < _MIN_SEEDS:
        raise UserError(f"seeds has {len(parsed)} seed; an interval needs at least {_MIN_SEEDS}, and a claim 5")
    if effect is not None:
        _check_positive("effect", effect)
    if type(processes) is not int or processes < 1:
        raise UserError(f"processes is {processes!r}; it must be a whole number from 1")
    return parsed


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(f"{name} is {value!r}; it must be a number above 0")


def _run_all(
    train: TrainFunction, study: FunctionStudy, calls: Sequence[PlannedCall], processes: int, quiet: bool
) -> list[RecordedCall]:
    """Makes the calls that have no finished record, and returns all records in the order of the calls."""
    records: dict[PlannedCall, RunRecord] = {}
    for call in calls:
        record = read_record(call)
        if record is not None and record.state == FINISHED:
            records[call] = record
            _check_metric(call, record, study.metric)
    waiting = [call for call in calls if call not in records]
    if records:
        _print(f"{len(records)} of {len(calls)} runs are finished, in {study.folder}", quiet)
    try:
        with contextlib.closing(run_calls(train, waiting, processes)) as ended:
            for call, record in ended:
                records[call] = record
                _print(_describe(call, record, study.metric), quiet)
                if record.state == INVALID:
                    raise UserError(f"arm {call.arm!r}, seed {call.seed}: {record.error}")
                if record.state == FINISHED:
                    _check_metric(call, record, study.metric)
    except KeyboardInterrupt:
        _print(f"interrupted; the same call continues after {len(records)} of {len(calls)} runs", quiet)
        raise
    return [(call, records[call]) for call in calls]


def _check_metric(call: PlannedCall, record: RunRecord, metric: str) -> None:
    """Raises UserError where a finished run does not have the metric at all."""
    if metric not in record.metrics:
        raise UserError(
            f"arm {call.arm!r}, seed {call.seed}: train returned no metric {metric!r} that is a number"
            f"{suggest_names(metric, record.metrics)}"
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
