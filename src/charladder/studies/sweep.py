"""The sweep of a plan: fields that are tuned for each arm, on seeds that the arms are not compared on.

A sweep is a study of its own, in the folder `sweep` of the study's directory. Its arms are the arms of the plan with
every combination of the values. The arms of the plan then get the combination with the fewest bits.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from charladder.errors import UserError
from charladder.studies.plan import Arm, Plan, check_plan, combine_arms, format_option_value

Bits = Mapping[tuple[str, int], float]  # of the finished runs of a sweep, by name of the arm and seed
Values = dict[str, dict[str, Any]]  # by arm, then by dotted name

_SCORED_PART = "text.valid", "text.test"  # they decide which characters are scored


def sweep_directory(folder: Path) -> Path:
    """The directory of the sweep of the study in `folder`."""
    return folder / "sweep"


def sweep_plan(plan: Plan) -> Plan:
    """The plan of the runs of a sweep."""
    assert plan.sweep is not None
    trials = {arm.name: combine_arms([arm], plan.sweep.values_for(arm.name)) for arm in plan.arms}
    names = dict.fromkeys(name for arm in plan.arms for name in plan.sweep.values_for(arm.name))
    return dataclasses.replace(
        plan,
        name=f"{plan.name}-sweep",
        question=f"Which {' and '.join(names)} is best for each arm of {plan.name}?",
        rule="Each arm gets the values with the fewest mean bits per character over the seeds of the sweep.",
        arms=tuple(trial for several in trials.values() for trial in several),
        seeds=plan.sweep.seeds,
        baseline=trials[plan.baseline][0].name,
        contrasts=(),
        sweep=None,
    )


def with_first_values(plan: Plan) -> Plan:
    """The plan in which every arm has the first of the values to try, which may include its budget. For checks."""
    if plan.sweep is None:
        return plan
    values = {arm.name: plan.sweep.values_for(arm.name) for arm in plan.arms}
    return with_values(plan, {arm: {name: several[0] for name, several in own.items()} for arm, own in values.items()})


def with_values(plan: Plan, values: Values) -> Plan:
    """The plan without its sweep, whose arms set these values too."""
    arms = tuple(dataclasses.replace(arm, fields={**arm.fields, **values[arm.name]}) for arm in plan.arms)
    return dataclasses.replace(plan, arms=arms, sweep=None)


def tuned_plan(plan: Plan, bits: Bits) -> Plan:
    """The plan in which every arm has its best values, by the bits of the runs of the sweep. Values with an unfinished
    run are not chosen. Raises UserError for an arm without finished values."""
    return with_values(plan, {arm.name: _best_values(plan, arm, bits) for arm in plan.arms})


def chosen_values(plan: Plan, tuned: Plan) -> Values:
    """The values of the swept fields in the plan with the choice."""
    assert plan.sweep is not None
    return {arm.name: {name: arm.fields[name] for name in plan.sweep.values_for(arm.name)} for arm in tuned.arms}


def values_at_edge(plan: Plan, tuned: Plan) -> list[str]:
    """A sentence for each arm and field whose chosen value is the lowest or the highest of at least three numbers: a
    value beyond may be better."""
    assert plan.sweep is not None
    sentences = []
    for arm in tuned.arms:
        for name, values in plan.sweep.values_for(arm.name).items():
            numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
            chosen = arm.fields[name]
            if len(set(numbers)) >= 3 and chosen in (min(numbers), max(numbers)):
                which, beyond = ("lowest", "lower") if chosen == min(numbers) else ("highest", "higher")
                value = format_option_value(chosen)
                sentences.append(
                    f"arm {arm.name!r}: the best {name}, {value}, is the {which} of the sweep; a {beyond} one may be "
                    "better"
                )
    return sentences


def check_plan_and_sweep(plan: Plan) -> None:
    """Raises UserError for a plan that cannot be trained, and for a sweep whose choice would be biased."""
    if plan.sweep is None:
        check_plan(plan)
        return
    for seed in plan.sweep.seeds:
        if seed in plan.seeds:
            raise UserError(
                f"[sweep] of the plan has the seed {seed}, which is one of the plan's seeds; tune on other seeds, for "
                "example [100], because values that were chosen on a seed look better on it than they are"
            )
    for name in plan.sweep.values:
        owner = "[set] or --set" if name in plan.fields else None
        owner = next((f"arm {arm.name!r}" for arm in plan.arms if name in arm.fields), owner)
        owner = next((f"[arms.{arm}.sweep]" for arm, own in plan.sweep.values_of_arm.items() if name in own), owner)
        if owner:
            raise UserError(f"[sweep] of the plan tunes {name}, which {owner} sets; leave it out in one of them")
    for arm in plan.arms:
        for name in _SCORED_PART:
            if name in plan.sweep.values_for(arm.name):
                raise UserError(
                    f"the sweep of the plan tunes {name} of arm {arm.name!r}, so its runs would be scored on different "
                    "characters; leave it out"
                )
    for arm in plan.arms:
        for name in plan.sweep.values_of_arm.get(arm.name, {}):
            if name in arm.fields:
                raise UserError(f"arm {arm.name!r} of the plan sets and tunes {name}; leave it out in one of them")
    check_plan(with_first_values(plan))
    try:
        check_plan(sweep_plan(plan))
    except UserError as error:  # it may name an arm that the user has not written
        raise UserError(f"the sweep of the plan: {error}") from None


def _best_values(plan: Plan, arm: Arm, bits: Bits) -> dict[str, Any]:
    """The combination with the fewest mean bits; the first of equal ones."""
    assert plan.sweep is not None
    best, fewest = None, math.inf
    values = plan.sweep.values_for(arm.name)
    for trial in combine_arms([arm], values):
        scores = [bits[trial.name, seed] for seed in plan.sweep.seeds if (trial.name, seed) in bits]
        if len(scores) == len(plan.sweep.seeds) and sum(scores) < fewest:
            best, fewest = trial, sum(scores)
    if best is None:
        raise UserError(
            f"arm {arm.name!r} has no values in the sweep whose runs have finished with all seeds, so none can be "
            "chosen; read the logs of its runs, and tune other values with another --out"
        )
    return {name: best.fields[name] for name in values}
