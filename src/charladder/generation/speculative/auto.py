"""The automatic drafter: chooses a drafter and a draft length by measured speed.

Every candidate is tried for a few passes; then the fastest is used. Because the text changes, other candidates are
tried again, as long as the time lost by trials stays below a small share of the total.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from charladder.generation.speculative.drafter import Drafter, Drafts
from charladder.generation.speculative.no_drafter import NoDrafter, no_drafts

if TYPE_CHECKING:
    from charladder.generation.sequence import SequenceState

TRIAL_PASSES = 6  # measured passes of a trial
MIN_TRIALS = 3  # per candidate, even if the first is slow: another process may have disturbed it
MAX_TRIAL_COST = 0.005  # share of the time that trials may lose
PASSES_BETWEEN_DECISIONS = 8
DECAY = 0.98  # of older measurements, per pass
MIN_RELATIVE_SPEED = 0.7  # of the fastest; after MIN_TRIALS trials, a slower candidate is not tried again
WARM_UP_PASSES = 2  # at the start of a trial, not measured: caches are cold


@dataclass
class Candidate:
    """A drafter with a draft length, and exponentially decayed sums of its characters and seconds."""

    drafter: Drafter
    length: int
    characters: float = 0.0
    seconds: float = 0.0
    trials: int = 0

    @property
    def speed(self) -> float:
        return self.characters / self.seconds if self.seconds else 0.0

    def record(self, characters: int, seconds: float) -> None:
        self.characters = DECAY * self.characters + characters
        self.seconds = DECAY * self.seconds + seconds


class AutoDrafter(Drafter):
    """Drafts with the candidate that is the fastest so far, and tries the others from time to time.

    drafters: each with the draft lengths to try; a candidate is a drafter with one length. Drafting nothing is a
    candidate too.
    """

    name = "auto"

    def __init__(self, drafters: Sequence[tuple[Any, Sequence[int]]]) -> None:
        self.candidates = [Candidate(NoDrafter(), 0)]
        self.candidates += [Candidate(drafter, n) for drafter, lengths in drafters for n in lengths]
        self.current, self.passes, self.is_trial = self.candidates[0], 0, True
        # trial_loss: by how many seconds trials took longer than the best candidate
        self.trial_loss = self.total_seconds = 0.0

    def begin(self, sequences: Sequence["SequenceState"]) -> None:
        for drafter in {id(c.drafter): c.drafter for c in self.candidates}.values():
            drafter.begin(sequences)

    def draft(self, sequences: Sequence["SequenceState"], limits: Sequence[int]) -> Drafts:
        if not self.current.length:
            return no_drafts(sequences, idle=True)
        return self.current.drafter.draft(sequences, [min(self.current.length, n) for n in limits])

    def end(self, sequences: Sequence["SequenceState"]) -> None:
        for drafter in {id(c.drafter): c.drafter for c in self.candidates}.values():
            drafter.end(sequences)

    def observe(self, passes: int, characters: int, seconds: float) -> None:
        current = self.current
        self.passes += 1
        self.total_seconds += seconds
        if not self.is_trial or self.passes > WARM_UP_PASSES:
            current.record(characters, seconds)
        # The code below takes a noticeable share of the time of a pass, so it does not run after every pass.
        if not self.is_trial and self.passes % PASSES_BETWEEN_DECISIONS:
            return
        best = max(self.candidates, key=lambda c: c.speed)
        if self.is_trial and best.speed:
            self.trial_loss += max(0.0, seconds - characters / best.speed)
        if self.is_trial and self.passes < TRIAL_PASSES + WARM_UP_PASSES:
            return
        current.trials += self.is_trial
        self.current, self.is_trial, self.passes = best, False, 0
        if self.trial_loss <= MAX_TRIAL_COST * self.total_seconds:
            candidate = self.next_trial(best)
            if candidate is not None:
                self.current, self.is_trial = candidate, True

    def next_trial(self, best: Candidate) -> Candidate | None:
        """The candidate to try next: an untried one, or else the least tried one among those that are nearly as fast as
        the best or have had few trials; None if there is none."""
        untried = [c for c in self.candidates if not c.trials]
        if untried:
            return untried[0]
        close = [
            c
            for c in self.candidates
            if c is not best and (c.speed > MIN_RELATIVE_SPEED * best.speed or c.trials < MIN_TRIALS)
        ]
        return min(close, key=lambda c: c.trials) if close else None

    @property
    def best_name(self) -> str:
        """The name and length of the fastest candidate."""
        best = max(self.candidates, key=lambda c: c.speed)
        return f"{best.drafter.name} {best.length}" if best.length else best.drafter.name
