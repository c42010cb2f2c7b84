"""The entries of this project: the plain script, the plain script with tuned settings, and recipes.

An entry has a command that trains in a process of its own, and a function that scores what it left in its folder.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from benchmarks import reference
from benchmarks.reference import Settings
from benchmarks.reference_sweep import reference_command
from benchmarks.score_reference import score_reference
from benchmarks.speedrun.task import Task
from benchmarks.tuned_settings import read_settings, tuned_file
from charladder.errors import UserError
from charladder.evaluation import evaluate
from charladder.recipe import load_recipe_fields, resolve, shape_fields
from charladder.run import open_run

RECIPES = "ladder", "sprint"
NAMES = "reference", "reference-tuned", *RECIPES


@dataclass(frozen=True)
class EntryScore:
    """context: of the network, scored at half of it as stride; None if an entry's own program predicts."""

    bits_per_character: float
    context: int | None


class Entry(Protocol):
    """has_reserve: it is told fewer seconds than the task has, so that its process ends in time; another entry sees to
    that itself. settings: for the record, as JSON. source: where its code is, if it is not in this repository."""

    @property
    def name(self) -> str: ...
    @property
    def settings(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def has_reserve(self) -> bool: ...

    def train_command(self, text: Path, seconds: float, seed: int, folder: Path) -> list[str]:
        """The command that trains on all of `text` and leaves what it learned in `folder`."""
        ...

    def score(self, task: Task, folder: Path) -> EntryScore:
        """Scores the test part. Called once for each seed."""
        ...


@dataclass(frozen=True)
class ReferenceEntry:
    """benchmarks/reference.py with these settings."""

    name: str
    values: Settings
    source: str = ""
    has_reserve: bool = True

    @property
    def settings(self) -> str:
        return json.dumps(asdict(self.values))

    def train_command(self, text: Path, seconds: float, seed: int, folder: Path) -> list[str]:
        return reference_command(self.values, text, seconds, seed, folder / "weights.safetensors")

    def score(self, task: Task, folder: Path) -> EntryScore:
        model = reference.load(str(folder / "weights.safetensors"))
        return EntryScore(score_reference(model, task.ids_N, task.test).bits_per_character, self.values.context)


@dataclass(frozen=True)
class RecipeEntry:
    """A recipe, with the shape that it has for a number of seconds, so that it does not depend on the reserve."""

    name: str
    shape: dict[str, int | float]
    source: str = ""
    has_reserve: bool = True

    @property
    def settings(self) -> str:
        return json.dumps(self.shape)

    def train_command(self, text: Path, seconds: float, seed: int, folder: Path) -> list[str]:
        shape = [word for field, value in self.shape.items() for word in (f"--{field}", str(value))]
        held_out = ["--valid", "0", "--test", "0", "--score", "none"]  # the text has its training part only
        command = [sys.executable, "-m", "charladder", "train", str(text), "--run", str(folder / "run")]
        command += ["--recipe", self.name, "--minutes", str(seconds / 60), "--seed", str(seed), "--device", "cpu"]
        return [*command, *held_out, *shape]

    def score(self, task: Task, folder: Path) -> EntryScore:
        run = open_run(folder / "run")
        network, context = run.load_network(), run.recipe.model.context
        score = evaluate(
            lambda tokens, keep: network(tokens, logits_to_keep=keep).logits_BTV,
            task.ids_N, task.test, context, context // 2, run.alphabet.size,
        )  # fmt: skip
        return EntryScore(score.bits_per_character, context)


def make_entry(name: str, seconds: float, characters: int, settings_file: Path | None = None) -> Entry:
    """An entry of this project. characters: of the training part. settings_file: of reference-tuned, in place of the
    committed one. Raises UserError if there is none."""
    if name in RECIPES:
        fields = load_recipe_fields(name) | {"training.minutes": seconds / 60, "training.device": "cpu"}
        recipe = resolve({**fields, "text.characters": characters, "text.valid": 0.0, "text.test": 0.0})
        return RecipeEntry(name, shape_fields(recipe))
    if name == "reference":
        return ReferenceEntry(name, Settings())
    path = settings_file or tuned_file(seconds)
    if not path.exists():
        raise UserError(
            f"there are no tuned settings for {seconds:g} seconds, {path}; `python -m benchmarks reference_sweep` "
            "finds them, and --settings FILE names others"
        )
    return ReferenceEntry(name, read_settings(path))
