"""An entry of somebody else: a command that trains, and one that predicts every character of the test part."""

import json
import random
import re
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speedrun.entries import NAMES, EntryScore
from benchmarks.speedrun.predictions import change_future, check_causality, score_predictions
from benchmarks.speedrun.task import Task
from benchmarks.timed_process import run_timed
from charladder.errors import UserError

TRAIN_PLACES = "text", "seconds", "seed", "out"
PREDICT_PLACES = "text", "begin", "end", "out", "predictions"
PREDICT_LIMIT = 600.0  # seconds in which the whole test part must be predicted


@dataclass(frozen=True)
class CommandEntry:
    """The two commands have places in braces, which are filled in for each run; see docs/speedrun.md."""

    name: str
    source: str
    train: str
    predict: str
    has_reserve: bool = False

    @property
    def settings(self) -> str:
        return json.dumps({"train": self.train, "predict": self.predict})

    def train_command(self, text: Path, seconds: float, seed: int, folder: Path) -> list[str]:
        return fill(self.train, {"text": text, "seconds": f"{seconds:g}", "seed": seed, "out": folder})

    def score(self, task: Task, folder: Path) -> EntryScore:
        """Lets the entry predict the test part, and in random order a copy that has another text from a secret place
        on. Up to that place both predictions must be equal. Raises UserError if they are not, or are not normalised."""
        place, changed_N = change_future(task)
        texts = {"test": task.ids_N, "changed": changed_N}
        order = list(texts)
        random.SystemRandom().shuffle(order)
        with tempfile.TemporaryDirectory() as name:
            first, (begin, end) = task.train_end, task.test  # the training part is there within the clock only
            found = {}
            for number, kind in enumerate(order):
                here = Path(name) / str(number)  # tells nothing about which of the two it is
                here.mkdir()
                text, found[kind] = here / "text", here / "predictions.safetensors"
                text.write_bytes(texts[kind][first:].tobytes())
                places = {"text": text, "begin": begin - first, "end": end - first}
                values = {**places, "out": folder, "predictions": found[kind]}
                run_timed(fill(self.predict, values), here, PREDICT_LIMIT, f"the prediction of {self.name}")
            check_causality(found["test"], found["changed"], place - begin, end - begin)
            return EntryScore(score_predictions(found["test"], task.ids_N[slice(*task.test)]), None)


def make_command_entry(name: str | None, source: str | None, train: str | None, predict: str | None) -> CommandEntry:
    """Raises UserError if something is missing, or a command lacks a place."""
    for option, value in (("name", name), ("source", source), ("train", train), ("predict", predict)):
        if not value:
            raise UserError(f"the entry `command` needs --{option}; docs/speedrun.md says what it is")
    assert name and source and train and predict
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name) or name in NAMES:
        raise UserError(f"--name is {name!r}; it must be of small letters, digits, and . _ -, and not one of {NAMES}")
    for option, command, places in (("train", train, TRAIN_PLACES), ("predict", predict, PREDICT_PLACES)):
        try:
            shlex.split(command)
        except ValueError as error:
            raise UserError(f"--{option} is not a command line: {error}") from None
        missing = [place for place in places if f"{{{place}}}" not in command]
        if missing:
            raise UserError(f"--{option} has no {{{missing[0]}}}; it needs {', '.join(f'{{{one}}}' for one in places)}")
    return CommandEntry(name, source, train, predict)


def fill(command: str, values: dict[str, object]) -> list[str]:
    """The words of a command line, with the places in them filled in."""
    places = re.compile(f"{{({'|'.join(values)})}}")
    return [places.sub(lambda found: str(values[found[1]]), word) for word in shlex.split(command)]
