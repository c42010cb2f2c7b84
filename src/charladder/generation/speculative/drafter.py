"""The interface of a drafter.

Shapes: N rows, V symbols, S sequences, M drafts of all sequences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from charladder.generation.sequence import SequenceState


@dataclass(frozen=True)
class Drafts:
    """The proposals of a drafter for every sequence of a pass.

    counts_S: the number of characters for each. ids_M: the characters, one sequence after the other. q_MV: the
    distributions (float64) from which they were sampled; None if they were chosen deterministically. first_layer, x_ND:
    if the drafter has run the layers up to `first_layer`, their output, with a row for each sequence's last character
    and for each draft. idle: the drafter will not propose anything for the next characters either.
    """

    counts_S: list[int]
    ids_M: list[int]
    q_MV: np.ndarray | None
    first_layer: int = 0
    x_ND: np.ndarray | None = None
    idle: bool = False


class Drafter(Protocol):
    """Proposes the next characters of each sequence. A subclass implements `draft`; the other methods do nothing here.

    The proposals affect the speed, not the distribution of the text. Random numbers come from `SequenceState.uniform`.
    """

    name: str

    def begin(self, sequences: Sequence["SequenceState"]) -> None:
        """Called for new sequences before their prompts are read. A drafter that reads the inputs of the output
        layer at all positions sets `normed_states` of each sequence to a list here."""

    def draft(self, sequences: Sequence["SequenceState"], limits: Sequence[int]) -> Drafts:
        """Proposes at most limits[n] characters for sequence n."""
        ...

    def end(self, sequences: Sequence["SequenceState"]) -> None:
        """Called when sequences are removed; their slots may be reused."""

    def observe(self, passes: int, characters: int, seconds: float) -> None:
        """Called after verification: the number of passes (one per sequence) and characters, and the time taken."""
