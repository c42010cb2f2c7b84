"""Splits of a text by position: train, then valid, then test, so that held-out text follows the training text."""

import math
from dataclasses import dataclass

from charladder.errors import UserError

MAX_FRACTION_BASE = 100_000_000  # characters of which valid and test can be fractions


@dataclass(frozen=True)
class Split:
    """The three parts of a text, as half-open ranges of characters."""

    train: tuple[int, int]
    valid: tuple[int, int]
    test: tuple[int, int]

    def part(self, name: str) -> tuple[int, int]:
        """The range of `train`, `valid`, `test` or `all`."""
        return (0, self.test[1]) if name == "all" else getattr(self, name)


def split(characters: int, valid: float, test: float) -> Split:
    """The last `test` characters, the `valid` characters before them, and the rest for training.

    Both are numbers of characters or, if below 1, fractions of the text's length, which counts as MAX_FRACTION_BASE at
    most: so text8 and enwik8 get their standard 90M / 5M / 5M, and scoring a huge text takes limited time. Raises
    UserError if no training text is left.
    """
    sizes = {}
    for name, share in (("valid", valid), ("test", test)):
        if not (math.isfinite(share) and share >= 0 and (share < 1 or share == int(share))):
            raise UserError(
                field=f"text.{name}", value=share, rule="it must be a whole number of characters or a fraction below 1"
            )
        sizes[name] = int(share * min(characters, MAX_FRACTION_BASE)) if share < 1 else int(share)
    left = characters - sizes["valid"] - sizes["test"]
    if left <= 0:
        raise UserError(
            f"the text has {characters} characters; text.valid {valid:g} and text.test {test:g} leave none to train on"
        )
    return Split((0, left), (left, left + sizes["valid"]), (left + sizes["valid"], characters))
