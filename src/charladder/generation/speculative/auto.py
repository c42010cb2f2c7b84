"""Chooses among drafters and lengths as it goes, by what they cost and give here and now.

Every choice is tried for a few passes, those that look best for more; then the best one writes, and is measured all the
while. Now and then a rival is tried again: texts change. How long that takes away is bounded: trials may not cost more
than a small share of the time, against the best.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from charladder.generation.sampler import Drafts
from charladder.generation.speculative.drafter import Drafter
from charladder.generation.speculative.no_drafter import NoDrafter, no_drafts

if TYPE_CHECKING:
    from charladder.generation.sequence import SequenceState

TRIAL_PASSES = 6  # of a trial
MIN_TRIALS = 3  # trials, however bad the first one looked: something else may have held the machine
MAX_TRIAL_COST = 0.005  # of the time that trials may lose
PASSES_BETWEEN_DECISIONS = 8  # passes between two looks at the rivals
DECAY = 0.98  # of what was measured before, with each pass
WARM_UP_PASSES = 2  # passes of a trial that are not counted: caches are cold


@dataclass
class Candidate:
    """A drafter at one length, and what it has given: characters and seconds, old ones fading; and its trials."""

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


class AutoDrafter:
    """drafters: any, each with lengths worth a trial."""

    name = "auto"

    def __init__(self, drafters: Sequence[tuple[Any, Sequence[int]]]) -> None:
        self.candidates = [Candidate(NoDrafter(), 0)]
        self.candidates += [Candidate(drafter, n) for drafter, lengths in drafters for n in lengths]
        self.current, self.passes, self.is_trial = self.candidates[0], 0, True
        self.trial_loss = self.total_seconds = 0.0  # seconds

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
        now = self.current
        self.passes += 1
        self.total_seconds += seconds
        if not self.is_trial or self.passes > WARM_UP_PASSES:
            now.record(characters, seconds)
        if not self.is_trial and self.passes % PASSES_BETWEEN_DECISIONS:  # what follows takes its time
            return
        best = max(self.candidates, key=lambda c: c.speed)
        if self.is_trial and best.speed:
            self.trial_loss += max(0.0, seconds - characters / best.speed)
        if self.is_trial and self.passes < TRIAL_PASSES + WARM_UP_PASSES:
            return
        now.trials += self.is_trial
        self.current, self.is_trial, self.passes = best, False, 0
        if self.trial_loss <= MAX_TRIAL_COST * self.total_seconds or not self.candidates[0].trials:
            rival = self.next_trial(best)
            if rival is not None:
                self.current, self.is_trial = rival, True

    def next_trial(self, best: Candidate) -> Candidate | None:
        """Who is to be tried next: who has not been, then whoever is close, or may have had bad luck; None where nobody
        is worth it."""
        untried = [c for c in self.candidates if not c.trials]
        if untried:
            return untried[0]
        worth = [c for c in self.candidates if c is not best and (c.speed > 0.7 * best.speed or c.trials < MIN_TRIALS)]
        return min(worth, key=lambda c: c.trials) if worth else None

    @property
    def best_name(self) -> str:
        """What writes at present."""
        best = max(self.candidates, key=lambda c: c.speed)
        return f"{best.drafter.name} {best.length}" if best.length else best.drafter.name
