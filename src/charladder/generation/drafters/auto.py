"""Chooses among drafters and lengths as it goes, by what they cost and give here and now.

Every choice is tried for a few passes, those that look best for more; then the best one writes, and is measured all the
while. Now and then a rival is tried again: texts change. How long that takes away is bounded: trials may not cost more
than a small share of the time, against the best.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from charladder.generation.drafters.interface import Drafter
from charladder.generation.drafters.none import NoDrafter, nothing
from charladder.generation.verification import Drafts

if TYPE_CHECKING:
    from charladder.generation.stream import Stream

PASSES = 6  # of a trial
LEAST = 3  # trials, however bad the first one looked: something else may have held the machine
SHARE = 0.005  # of the time that trials may lose
EVERY = 8  # passes between two looks at the rivals
FORGET = 0.98  # of what was measured before, with each pass
FIRST = 2  # passes of a trial that are not counted: caches are cold


@dataclass
class Choice:
    """A drafter at one length, and what it has given: characters and seconds, old ones fading; and its trials."""

    drafter: Drafter
    length: int
    characters: float = 0.0
    seconds: float = 0.0
    trials: int = 0

    @property
    def speed(self) -> float:
        return self.characters / self.seconds if self.seconds else 0.0

    def measure(self, characters: int, seconds: float) -> None:
        self.characters = FORGET * self.characters + characters
        self.seconds = FORGET * self.seconds + seconds


class AutoDrafter:
    """drafters: any, each with lengths worth a trial."""

    name = "auto"

    def __init__(self, drafters: Sequence[tuple[Any, Sequence[int]]]) -> None:
        self.choices = [Choice(NoDrafter(), 0)]
        self.choices += [Choice(drafter, n) for drafter, lengths in drafters for n in lengths]
        self.current, self.passes, self.trying = self.choices[0], 0, True
        self.lost = self.total = 0.0  # seconds

    def begin(self, streams: Sequence["Stream"]) -> None:
        for drafter in {id(c.drafter): c.drafter for c in self.choices}.values():
            drafter.begin(streams)

    def draft(self, streams: Sequence["Stream"], most: Sequence[int]) -> Drafts:
        if not self.current.length:
            return nothing(streams, resting=True)
        return self.current.drafter.draft(streams, [min(self.current.length, n) for n in most])

    def end(self, streams: Sequence["Stream"]) -> None:
        for drafter in {id(c.drafter): c.drafter for c in self.choices}.values():
            drafter.end(streams)

    def told(self, passes: int, characters: int, seconds: float) -> None:
        now = self.current
        self.passes += 1
        self.total += seconds
        if not self.trying or self.passes > FIRST:
            now.measure(characters, seconds)
        if not self.trying and self.passes % EVERY:  # what follows takes its time
            return
        best = max(self.choices, key=lambda c: c.speed)
        if self.trying and best.speed:
            self.lost += max(0.0, seconds - characters / best.speed)
        if self.trying and self.passes < PASSES + FIRST:
            return
        now.trials += self.trying
        self.current, self.trying, self.passes = best, False, 0
        if self.lost <= SHARE * self.total or not self.choices[0].trials:
            rival = self.rival(best)
            if rival is not None:
                self.current, self.trying = rival, True

    def rival(self, best: Choice) -> Choice | None:
        """Who is to be tried next: who has not been, then whoever is close, or may have had bad luck; None where nobody
        is worth it."""
        untried = [c for c in self.choices if not c.trials]
        if untried:
            return untried[0]
        worth = [c for c in self.choices if c is not best and (c.speed > 0.7 * best.speed or c.trials < LEAST)]
        return min(worth, key=lambda c: c.trials) if worth else None

    @property
    def chosen(self) -> str:
        """What writes at present."""
        best = max(self.choices, key=lambda c: c.speed)
        return f"{best.drafter.name} {best.length}" if best.length else best.drafter.name
