"""When each head of a run was last trained, from metrics.jsonl and, for steps that were not logged, the schedule."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from charladder.auxiliary import term_name
from charladder.objective import depends_on_step, term_weights
from charladder.run import Run
from charladder.training import TrainingConfig
from charladder.training.checkpoint import list_checkpoints
from charladder.training.metrics import is_number, read_metrics

MAX_COMPUTED_STEPS = 10_000  # for which weights that depend on the step are computed

Line = dict[str, Any]


@dataclass(frozen=True)
class TrainingMoment:
    """A training step, the progress before it, and the characters read by its end."""

    step: int
    progress: float
    characters: int


@dataclass(frozen=True)
class LastLearned:
    """contributed: the last step at which the term had a weight above 0. head: the last step at which its classifier
    was trained, which with shared heads is the last step of any layer. None: never."""

    contributed: TrainingMoment | None
    head: TrainingMoment | None


def last_learned(run: Run) -> dict[str, LastLearned]:
    """For every term of the objective, when it last contributed to the weights in the run directory.

    Exact if the budget was the same between two logged steps. If --extend changed it between them, the steps after the
    first are assumed to have had the new budget. Empty without metrics.
    """
    path, layers = run.path / "metrics.jsonl", run.recipe.model.layers
    settings = run.recipe.objective
    if not path.is_file():
        return {}
    lines = [line for line in read_metrics(path) if "split" not in line and _has_valid_numbers(line)]
    saved = list_checkpoints(run.path / "checkpoints")
    end = int(saved[-1].name) if saved else max((line["step"] for line in lines), default=0)
    end = end if run.best_step is None else run.best_step
    lines = sorted((line for line in lines if line["step"] <= end), key=lambda line: line["step"])
    term_names = {
        (layer, k): term_name(layer, k, layers)
        for layer in range(1, layers + 1)
        for k in range(1, settings.targets + 1)
    }
    found: dict[str, TrainingMoment] = {}
    use_schedule, computed_steps = depends_on_step(settings), 0
    for line, steps in _logged_intervals(lines, run.recipe.training, end):
        active_names = {name for name in term_names.values() if _logged_weight(line, name) > 0}
        for moment in steps:
            may_find_more = len(found) < len(term_names) and use_schedule and computed_steps < MAX_COMPUTED_STEPS
            if not active_names - found.keys() and not may_find_more:
                break
            computed_steps += 1
            weights = term_weights(settings, layers, moment.progress, moment.step - 1)
            for key, name in term_names.items():
                if weights[key] > 0:
                    found.setdefault(name, moment)
        for name in active_names:
            found.setdefault(name, TrainingMoment(line["step"], line["progress"], line["characters"]))
    shared = {
        k: max(
            (moment for (_, target), name in term_names.items() if target == k and (moment := found.get(name))),
            key=lambda moment: moment.step,
            default=None,
        )
        for k in range(1, settings.targets + 1)
    }
    return {
        name: LastLearned(found.get(name), shared[k] if settings.intermediate_heads == "shared" else found.get(name))
        for (_, k), name in term_names.items()
    }


def _has_valid_numbers(line: Line) -> bool:
    """Whether the step, the progress and the characters of a line are numbers that a run can write: finite, and with a
    progress that is a fraction of at most 2**63 steps or characters."""
    progress: Any = line.get("progress")
    characters: Any = line.get("characters")
    return (
        line["step"] >= 1
        and is_number(progress)
        and (progress == 0 or 2**-63 <= progress <= 1)
        and is_number(characters)
        and abs(characters) < 2**63
    )


def _logged_weight(line: Line, name: str) -> float:
    weight = line["terms"].get(name, {}).get("weight", 0)
    return weight if is_number(weight) else 0.0


def _logged_intervals(
    lines: list[Line], training: TrainingConfig, end: int
) -> Iterator[tuple[Line, Iterator[TrainingMoment]]]:
    """Yields, from the last to the first, each line with terms and the steps that changed the weights between it and
    the next line with terms, also from the last to the first."""
    after: list[Line] = []  # the later lines up to the next one with terms, in order
    for line in reversed(lines):
        if "terms" in line:
            yield line, _steps_after(line, after, training, end)
            after = []
        after.insert(0, line)


def _steps_after(line: Line, after: list[Line], training: TrainingConfig, end: int) -> Iterator[TrainingMoment]:
    """The steps after `line` and before the next line with terms. after: the lines between them, in order."""
    known = {one["step"]: one for one in after}
    nexts = sorted(known)
    last = next((step - 1 for step in nexts if "terms" in known[step]), end)
    for step in range(last, line["step"], -1):
        if step in known:
            one = known[step]
            if "skipped" not in one:
                yield TrainingMoment(step, one["progress"], one["characters"])
            continue
        follower = next((known[later] for later in nexts if later > step), None)
        yield _interpolate(step, line, follower, training)


def _interpolate(step: int, before: Line, after: Line | None, training: TrainingConfig) -> TrainingMoment:
    """The moment of a step between two logged ones, or after the last one."""
    first = before["step"]
    each = (
        (after["characters"] - before["characters"]) / (after["step"] - first)
        if after
        else before["characters"] / first
    )
    characters = round(before["characters"] + each * (step - first))
    if after is None:
        budget = training.characters or training.steps
        spent = characters - each if training.characters else step - 1
        return TrainingMoment(step, min(1.0, spent / budget) if budget else before["progress"], characters)
    # Both kinds of budget are integers, so a budget can be computed from a progress, which is a fraction of it.
    for spent, later in ((step - 1, after["step"] - 1), (round(characters - each), round(after["characters"] - each))):
        budget = round(later / after["progress"]) if after["progress"] else 0
        if budget and later / budget == after["progress"]:
            return TrainingMoment(step, spent / budget, characters)
    share = (step - first) / (after["step"] - first)
    return TrainingMoment(step, before["progress"] + share * (after["progress"] - before["progress"]), characters)
