"""Splits by position: train, then valid, then test, so that nothing held out lies before what is learned from."""

import math
from dataclasses import dataclass

from charladder.errors import UserError

WHOLE = 100_000_000


@dataclass(frozen=True)
class Split:
    """Half-open ranges of characters."""

    train: tuple[int, int]
    valid: tuple[int, int]
    test: tuple[int, int]

    def part(self, name: str) -> tuple[int, int]:
        """The range called `train`, `valid` or `test`; `all` is the three together."""
        return (0, self.test[1]) if name == "all" else getattr(self, name)


def split(characters: int, valid: float, test: float) -> Split:
    """The last `test` characters, the `valid` before them, the rest for training.

    Both are numbers of characters, or, when below 1, fractions of the whole or of WHOLE characters, whichever is
    less: so that text8 and enwik8 get their standard 90M / 5M / 5M, and a huge text is scored in bearable time.
    Raises UserError if nothing is left.
    """
    sizes = {}
    for name, share in (("valid", valid), ("test", test)):
        if not (math.isfinite(share) and share >= 0 and (share < 1 or share == int(share))):
            raise UserError(
                field=f"text.{name}", value=share, rule="it must be a whole number of characters or a fraction below 1"
            )
        sizes[name] = int(share * min(characters, WHOLE)) if share < 1 else int(share)
    left = characters - sizes["valid"] - sizes["test"]
    if left <= 0:
        raise UserError(
            f"the text has {characters} characters; text.valid {valid:g} and text.test {test:g} leave none to train on"
        )
    return Split((0, left), (left, left + sizes["valid"]), (left + sizes["valid"], characters))
