"""The task of the speedrun: a text, its parts, and the seconds of training."""

import hashlib
from dataclasses import dataclass

import numpy as np

from charladder.errors import UserError
from charladder.text import open_corpus

TEXT_SHA256 = "a74f575c77e5ce56d9af1598cbfe86fe1bbef92c200355dcc909ddc81df2184d"
CHARACTERS, TRAIN, VALID = 4_503_641, 4_000_000, 250_000
SECONDS = (300.0, 60.0)
SYMBOLS = 256  # predictions are of bytes
_QUICK_CHARACTERS = 3_000, 1_000  # the shortest text, and each of the held-out parts
_QUICK_LIMIT = 600.0  # a busy machine may need long to start a process


@dataclass(frozen=True)
class Task:
    """A text as bytes, the range of its test part, the end of its training part, its SHA-256, and the seconds.

    limit: seconds after which the process that trains is killed.
    """

    ids_N: np.ndarray
    train_end: int
    test: tuple[int, int]
    sha256: str
    seconds: float
    limit: float


def open_task(data: str, seconds: float, quick: bool) -> Task:
    """The task on `data`: a file, or a corpus that begins with the text, such as text8. Raises UserError for others.

    quick: any text and any seconds, for trying the command; the held-out parts have 1,000 characters each.
    """
    if seconds not in SECONDS and not quick:
        raise UserError(field="seconds", value=seconds, rule="the task has 300 or 60 seconds")
    ids_N = open_corpus((data,)).ids_N
    if quick:
        shortest, part = _QUICK_CHARACTERS
        if len(ids_N) < shortest:
            raise UserError(f"{data} has {len(ids_N):,} characters; give a text with {shortest:,} or more")
        end = len(ids_N)
        return Task(
            ids_N, end - 2 * part, (end - part, end), hashlib.sha256(ids_N.tobytes()).hexdigest(), seconds, _QUICK_LIMIT
        )
    ids_N = ids_N[:CHARACTERS]
    digest = hashlib.sha256(ids_N.tobytes()).hexdigest()
    if digest != TEXT_SHA256:
        raise UserError(
            f"{data} is not the text of the task: its first {CHARACTERS:,} characters have the SHA-256 {digest[:12]}, "
            f"and not {TEXT_SHA256[:12]}; docs/speedrun.md says how to get it (--quick takes any text)"
        )
    return Task(ids_N, TRAIN, (TRAIN + VALID, CHARACTERS), digest, seconds, seconds)
