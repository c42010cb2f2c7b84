"""When heads last learned is exact, however few of the steps were logged: against a look at every single step."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from charladder.auxiliary import term_name
from charladder.errors import DamagedDataWarning
from charladder.evaluation.last_learned import TrainingMoment, last_learned
from charladder.objective import term_weights
from charladder.recipe import load_recipe_fields, resolve
from charladder.run import Run
from charladder.training.schedule import RunCounters, compute_progress

LAYERS, EACH = 4, 320  # characters of a step
BUDGETS = {"steps": {"steps": 97}, "characters": {"characters": 97 * EACH - 100}, "minutes": {"minutes": 0.5}}
SCHEDULES = {
    "half": {},
    "fade": {"intermediate_schedule": "fade", "intermediate_reduction": "mean"},
    "early": {"intermediate_schedule": "early_anneal"},
    "gradual": {"intermediate_schedule": "layerskip_gradual"},
    "in turn": {"intermediate_schedule": "layerskip", "target_schedule": "blockwise", "targets": 3},
    "targets": {"target_schedule": "reverse_curriculum", "targets": 3},
    "no extra targets": {"target_weight": 0.0},
}
Line = dict[str, Any]


def make_run(folder: Path, budget: dict[str, float], schedule: dict[str, Any]) -> Run:
    fields = {f"training.{name}": value for name, value in ({"minutes": 0.0} | budget).items()}
    fields |= {f"objective.{name}": value for name, value in schedule.items()}
    return Run(folder, resolve(load_recipe_fields("ladder") | {"model.layers": LAYERS} | fields))


def all_lines(run: Run, counters: RunCounters, steps: int, skipped: tuple[int, ...] = ()) -> list[Line]:
    """A line with terms for each of the next steps, as training takes them."""
    found = []
    for _ in range(steps):
        at = compute_progress(run.recipe.training, counters)
        weights = term_weights(run.recipe.objective, LAYERS, at, counters.step)
        counters.step += 1
        counters.characters += EACH
        counters.seconds += 0.2 + 0.1 * (counters.step % 3)
        line: Line = {
            "step": counters.step,
            "progress": at,
            "characters": counters.characters,
            "seconds": counters.seconds,
        }
        if counters.step in skipped:
            line["skipped"] = "the loss leapt"
        else:
            terms = {term_name(*place, LAYERS): weight for place, weight in weights.items() if weight > 0}
            line["terms"] = {name: {"bits": 2.0, "weight": weight} for name, weight in ({"main": 0.0} | terms).items()}
        found.append(line)
        if compute_progress(run.recipe.training, counters) >= 1:
            break
    return found


def by_every_step(lines: list[Line]) -> dict[str, TrainingMoment]:
    return {
        name: TrainingMoment(line["step"], line["progress"], line["characters"])
        for line in lines
        for name, term in line.get("terms", {}).items()
        if term["weight"] > 0
    }


def write(run: Run, lines: list[Line], every: int = 10) -> None:
    """metrics.jsonl with what training logs of the lines, and a checkpoint of the last of them."""
    minutes, logged = bool(run.recipe.training.minutes), []
    for line in lines:
        if line["step"] == 1 or line["step"] % every == 0 or "skipped" in line or line is lines[-1]:
            logged.append(line)
        elif minutes:
            logged.append({name: value for name, value in line.items() if name != "terms"})
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged))


def contributed(run: Run) -> dict[str, TrainingMoment]:
    return {name: one.contributed for name, one in last_learned(run).items() if one.contributed is not None}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("taken", [3, 47, 200])
def test_last_learned_equals_computing_every_step(tmp_path, budget, schedule, taken):
    run = make_run(tmp_path, BUDGETS[budget], SCHEDULES[schedule])
    lines = all_lines(run, RunCounters(), taken)
    write(run, lines)
    assert contributed(run) == by_every_step(lines)


def test_steps_after_the_last_line_of_an_interrupted_run_count(tmp_path):
    for budget in ("steps", "characters"):
        run = make_run(tmp_path, BUDGETS[budget], {"intermediate_schedule": "whole"})
        lines = all_lines(run, RunCounters(), 48)
        write(run, lines[:40])
        (tmp_path / "checkpoints" / "48").mkdir(parents=True, exist_ok=True)
        assert contributed(run) == by_every_step(lines)
        assert contributed(run)["layer1.target1"].step < contributed(run)["main"].step == 48


def test_lines_after_the_checkpoint_are_ignored(tmp_path):
    run = make_run(tmp_path, BUDGETS["steps"], {})
    lines = all_lines(run, RunCounters(), 97)
    write(run, lines)
    (tmp_path / "checkpoints" / "35").mkdir(parents=True)
    assert contributed(run) == by_every_step(lines[:35])


@pytest.mark.parametrize("budget", ["steps", "characters"])
def test_extended_budget_applies_from_its_first_line(tmp_path, budget):
    amount = BUDGETS[budget][budget]
    run, counters = make_run(tmp_path, BUDGETS[budget], {}), RunCounters()
    lines = all_lines(run, counters, 1000)
    run = Run(tmp_path, replace(run.recipe, training=replace(run.recipe.training, **{budget: 5 * amount})))
    lines += all_lines(run, counters, 1000)
    write(run, lines)
    assert contributed(run) == by_every_step(lines)
    assert contributed(run)["layer2.target1"].step > 97  # it had been inactive


def test_skipped_step_does_not_count(tmp_path):
    run = make_run(tmp_path, BUDGETS["steps"], {})
    whole = by_every_step(all_lines(run, RunCounters(), 97))
    last = whole["layer1.target1"].step
    lines = all_lines(run, RunCounters(), 97, skipped=(last, last - 1))
    write(run, lines)
    assert contributed(run)["layer1.target1"].step == last - 2
    assert contributed(run) == by_every_step(lines)


def test_a_shared_head_learns_as_long_as_any_layer_uses_it(tmp_path):
    run = make_run(tmp_path, BUDGETS["steps"], {"intermediate_heads": "shared"})
    lines = all_lines(run, RunCounters(), 97)
    write(run, lines)
    every = by_every_step(lines)
    found = last_learned(run)
    assert found["layer1.target1"].contributed == every["layer1.target1"]
    assert found["layer1.target1"].head == found["main"].head == every["main"]
    assert found["layer1.target2"].head == every["layer4.target2"]
    own = make_run(tmp_path, BUDGETS["steps"], {})
    assert last_learned(own)["layer1.target1"].head == every["layer1.target1"]


@pytest.mark.parametrize(
    "change",
    [
        {"step": 0},
        {"step": 95, "characters": math.nan},
        {"step": 95, "characters": math.inf},
        {"step": 95, "characters": 1e308},
        {"step": 95, "progress": math.nan},
        {"step": 95, "progress": math.inf},
        {"step": 95, "progress": 5e-324},
    ],
    ids=str,
)
def test_line_with_impossible_numbers_is_ignored(tmp_path, change):
    run = make_run(tmp_path, BUDGETS["steps"], {})
    (tmp_path / "checkpoints" / "97").mkdir(parents=True)
    lines = all_lines(run, RunCounters(), 1)
    write(run, [lines[0] | change])
    assert last_learned(run)["main"].contributed is None
    write(run, [lines[0], lines[0] | change])
    damaged = contributed(run)
    write(run, lines)
    assert damaged == contributed(run)


def test_result_is_empty_without_metrics(tmp_path):
    assert last_learned(make_run(tmp_path, BUDGETS["steps"], {})) == {}
    (tmp_path / "metrics.jsonl").write_text('{"step": 3}\nnonsense\n{"step": 4, "terms": {}}\n')
    with pytest.warns(DamagedDataWarning, match="2 lines of .* left out: 2, 3"):
        assert contributed(make_run(tmp_path, BUDGETS["steps"], {})) == {}
