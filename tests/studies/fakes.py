"""Plans and run directories with numbers that a test chooses; nothing is trained."""

import json
from pathlib import Path
from typing import Any

from charladder.recipe import load_recipe_fields, resolve
from charladder.run import Run
from charladder.run_creation import write_config
from charladder.studies.plan import Arm, Plan, run_directory_name

ENVIRONMENT: dict[str, Any] = {
    "versions": {"charladder": "0.1.0", "torch": "2.9.0"},
    "python": "3.12.0",
    "machine": {"processor": "Abacus 12", "threads": 2, "gpu": None},
    "data": {"name": "book.txt", "bytes": 1000, "sha256": "ab" * 32, "files": 1, "unknown": 0},
    "git": None,
}
STEPS = 40


def make_plan(seeds: int = 5, arms: tuple[str, ...] = ("none", "layers"), **changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "name": "ladders",
        "question": "Do layers help?",
        "rule": "Lower bits per character on the valid part after equal characters.",
        "base": "ladder",
        "data": ("book.txt",),
        "fields": {"training.steps": STEPS, "model.layers": 2},
        "arms": tuple(Arm(name, {"objective.intermediate": name != "none"}) for name in arms),
        "seeds": tuple(range(seeds)),
        "baseline": "none",
    }
    return Plan(**(fields | changes))


def make_run(
    folder: Path,
    arm: str,
    seed: int,
    bits: float,
    finished: bool = True,
    speed: float = 1000.0,
    environment: dict[str, Any] | None = None,
    recorded_seed: int | None = None,
    letters: str = "",
) -> Path:
    """A run of STEPS steps of 100 characters, its curves straight lines from 8 down to `bits` (one bit more for
    validations). letters: of the alphabet; without them it is bytes."""
    path = folder / run_directory_name(arm, seed)
    path.mkdir(parents=True)
    raw = load_recipe_fields("ladder") | {"training.minutes": 0.0, "training.steps": STEPS, "model.layers": 2}
    alphabet = "letters" if letters else "bytes"
    raw |= {"text.letters": letters, "text.alphabet": alphabet, "text.sha256": "0" * 64}
    recipe = resolve(raw | {"training.seed": seed if recorded_seed is None else recorded_seed})
    write_config(Run(path, recipe))
    (path / "environment.json").write_text(json.dumps(environment or ENVIRONMENT))
    (path / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in metrics_lines(bits, finished, speed))
    )
    return path


def metrics_lines(bits: float, finished: bool, speed: float) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for step in range(1, STEPS + 1 if finished else STEPS // 2):
        characters = 100 * step
        now = 8 + (bits - 8) * step / STEPS
        line: dict[str, Any] = {"step": step, "progress": (step - 1) / STEPS, "characters": characters}
        line |= {"seconds": characters / speed, "learning_rate": 0.01}
        if step % 2 == 0:
            line["terms"] = {"main": {"bits": now, "weight": 1.0, "share": now}}
            line["terms"]["layer1.target1"] = {"bits": now + 0.5, "weight": 0.3, "share": 0.3 * now}
        if step % 4 == 0:
            norms = {"layer1": 0.1, "layer2": 0.2}
            alone = {layer: norm / 2 for layer, norm in norms.items()}
            line["diagnosis"] = {"gradient_norms": norms, "gradient_norms_without": alone}
        found.append(line)
        if step % 8 == 0 and step < STEPS:
            score = {"split": "valid", "part": True, "bits_per_character": now + 1}
            found.append({"step": step, "trained_characters": characters, **score})
    if finished:
        score = {"split": "valid", "bits_per_character": bits, "characters": 5000, "context": 64, "seconds": 1.0}
        found.append({"step": STEPS, "trained_characters": 100 * STEPS, **score})
    return found
