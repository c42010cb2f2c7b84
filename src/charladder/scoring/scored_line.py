"""What the scores of a line are, however they were computed.

Shapes: M symbols of a line, its end included.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from charladder.errors import UserError

NEWLINE = b"\n"


@dataclass(frozen=True)
class ScoredLine:
    """A scored line of a file, or the text of a row.

    line: counted from 1. place: the position of its first symbol in the text that it was predicted in. ids_M: its
    symbols; with has_end the last one is the newline that ends it. bits_M: float64. ranks_M: the number of symbols with
    a higher probability. seen_M: the number of characters of the text that each was predicted from. entropy_M: of the
    prediction, in bits; None if it was not asked for.
    """

    file: str
    line: int
    place: int
    ids_M: np.ndarray
    has_end: bool
    bits_M: np.ndarray
    ranks_M: np.ndarray
    seen_M: np.ndarray
    entropy_M: np.ndarray | None

    @property
    def characters(self) -> int:
        """Without the newline."""
        return len(self.ids_M) - self.has_end


LineConsumer = Callable[[Sequence[ScoredLine]], None]
"""Takes scored lines, in the order of the input."""


def check_finite(lines: Sequence[ScoredLine]) -> None:
    """Raises UserError for bits that are not finite."""
    for line in lines:
        if not np.isfinite(line.bits_M).all():
            raise UserError(
                f"the score of {line.file}, line {line.line} is not finite: the weights of the network are so large "
                "that its predictions are not finite; use other weights, or train with a lower learning rate"
            )
