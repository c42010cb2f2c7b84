"""Predictions that a program outside of this project wrote: whether they are normalised and causal, and their bits.

A file is safetensors with `log_probabilities`, float32, (M, 256): natural logarithms of the probabilities of all bytes,
a row for each of the M characters of the test part.

Shapes: M characters of the test part, R rows read at once, V symbols.
"""

import math
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from benchmarks.speedrun.task import SYMBOLS, Task
from charladder.errors import UserError

TENSOR = "log_probabilities"
MAX_SUM_ERROR = 1e-3  # how far the sum of the probabilities of a row may be from 1; the row is then normalised
MAX_DISTANCE = 1e-4  # total variation distance between two predictions that count as equal
_ROWS = 8192


def score_predictions(path: Path, test_M: np.ndarray) -> float:
    """Bits per character of the predictions for the test part. Raises UserError if they are not probabilities."""
    bits, done = 0.0, 0
    for log_RV in read_rows(path, len(test_M)):
        targets_R = test_M[done : done + len(log_RV)].astype(np.int64)
        target_R = np.take_along_axis(log_RV, targets_R[:, None], 1)[:, 0]
        impossible = np.flatnonzero(np.isneginf(target_R))
        if len(impossible):
            where = done + int(impossible[0])
            raise UserError(f"{path.name} gives character {where:,} of the test part the probability 0: infinite bits")
        bits -= float(target_R.sum()) / math.log(2)
        done += len(log_RV)
    return bits / len(test_M)


def change_future(task: Task) -> tuple[int, np.ndarray]:
    """A secret place in the test part, and a copy of the text that differs from there on: it goes on with a stretch of
    the characters before the test part, which look like the text."""
    draw = random.SystemRandom()
    begin, end = task.test
    while True:
        place = draw.randrange(begin, end)
        source = draw.randrange(0, begin - (end - place) + 1)
        changed_N = np.array(task.ids_N)
        changed_N[place:end] = task.ids_N[source : source + end - place]
        different = np.flatnonzero(changed_N != task.ids_N)
        if len(different):
            return int(different[0]), changed_N


def check_causality(one: Path, other: Path, last: int, count: int) -> None:
    """Raises UserError unless the predictions of the characters up to number `last` are equal in both files: these
    characters have the same ones before them. count: characters of the test part."""
    done = 0
    for first_RV, second_RV in zip(read_rows(one, count), read_rows(other, count), strict=True):
        distance_R = np.abs(np.exp(first_RV) - np.exp(second_RV)).sum(1)[: last + 1 - done] / 2
        wrong = np.flatnonzero(distance_R > MAX_DISTANCE)
        if len(wrong):
            where = done + int(wrong[0])
            raise UserError(
                f"the prediction of character {where:,} of the test part changed (by {distance_R[wrong[0]]:.2g}) when "
                f"characters from {last:,} on were changed; it may depend on the characters before it only, and must "
                f"repeat to {MAX_DISTANCE:g}, so predict in float32"
            )
        done += len(first_RV)
        if done > last:
            return


def read_rows(path: Path, count: int) -> Iterator[np.ndarray]:
    """Yields normalised rows in float64, some at a time. Raises UserError for a file that is not as described, has
    other than `count` rows, or rows that do not sum to 1."""
    try:
        with safe_open(path, "np") as file:
            if TENSOR not in file.keys():  # noqa: SIM118, it is not a dict
                raise UserError(f"{path.name} has no tensor {TENSOR}")
            tensor = file.get_slice(TENSOR)
            shape, dtype = tensor.get_shape(), tensor.get_dtype()
            if shape != [count, SYMBOLS] or dtype != "F32":
                raise UserError(
                    f"{path.name} has {TENSOR} of shape {tuple(shape)} and type {dtype}; it must be ({count}, "
                    f"{SYMBOLS}) and F32"
                )
            for begin in range(0, count, _ROWS):
                yield _normalised(tensor[begin : min(begin + _ROWS, count)], begin, path)
    except FileNotFoundError:
        raise UserError(f"the command wrote no {path.name}; it must write to {{predictions}}") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path.name} cannot be read as safetensors: {error}") from None


def _normalised(raw_RV: np.ndarray, begin: int, path: Path) -> np.ndarray:
    log_RV = raw_RV.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        sums_R = np.exp(log_RV).sum(1)
    wrong = np.flatnonzero(~(np.abs(sums_R - 1) <= MAX_SUM_ERROR))
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"{path.name} predicts character {begin + row:,} of the test part with probabilities that sum to "
            f"{sums_R[row]:.4g}; they must sum to 1"
        )
    return log_RV - np.log(sums_R)[:, None]
