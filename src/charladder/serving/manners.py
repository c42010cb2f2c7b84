"""How texts are written, by what a request asks for. Chance is a race (Daliri et al. 2024), so the text of a seed is
the same whatever drafts, and whoever else is being served. Drafts by n-grams know the text so far alone: to count those
of the training text would keep everybody waiting."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

from charladder.errors import BadInput
from charladder.generation.choosing import Draft, choose_drafter
from charladder.generation.drafters import AutoDrafter, NgramDrafter
from charladder.generation.drafters.none import nothing
from charladder.generation.sampling import Sampling
from charladder.generation.stream import Manner, Stream
from charladder.generation.verification import Drafts
from charladder.inference.runner import ModelRunner
from charladder.run import Run

LOOKED_UP = 4096  # characters
KEPT = 16  # manners; a drafter packs its weights for itself


class Alone:
    """Drafts for one text while it is the only one: in company a pass is full anyway."""

    def __init__(self, drafter: Any, company: Callable[[], int]) -> None:
        self.drafter, self.company, self.name = drafter, company, drafter.name
        self.on = False
        self.begun: set[int] = set()

    def begin(self, streams: Sequence[Stream]) -> None:
        """Later, if it comes to that: to take in a prompt takes time from everybody."""

    def draft(self, streams: Sequence[Stream], most: Sequence[int]) -> Drafts:
        self.on = self.company() == 1
        if not self.on:
            return nothing(streams, resting=True)
        new = [stream for stream in streams if id(stream) not in self.begun]
        self.drafter.begin(new)
        self.begun |= {id(stream) for stream in new}
        return self.drafter.draft(streams, most)

    def end(self, streams: Sequence[Stream]) -> None:
        self.drafter.end([stream for stream in streams if id(stream) in self.begun])
        self.begun -= {id(stream) for stream in streams}

    def told(self, passes: int, characters: int, seconds: float) -> None:
        if self.on:
            self.drafter.told(passes, characters, seconds)


def bound(drafter: object) -> None:
    """An n-gram drafter looks up in the last part of a text alone: all of a long prompt would hold everybody up."""
    if isinstance(drafter, NgramDrafter):
        drafter.held = LOOKED_UP


class Manners:
    """Finds or makes them. Not for several threads at once."""

    def __init__(
        self,
        run: Run,
        reader: ModelRunner,
        weights: torch.dtype,
        company: Callable[[], int],
    ) -> None:
        self.run, self.reader, self.weights, self.company = run, reader, weights, company
        self.kept: OrderedDict[tuple[Sampling, Draft], Manner] = OrderedDict()

    def of(self, sampling: Sampling, draft: Draft) -> Manner:
        """Raises BadInput where the run has nothing to draft with in this way."""
        key = sampling, draft
        if key in self.kept:
            self.kept.move_to_end(key)
            return self.kept[key]
        drafter = choose_drafter(draft, self.run, self.reader, sampling, None, lambda: None, self.weights)
        for one in drafter.choices if isinstance(drafter, AutoDrafter) else ():
            bound(one.drafter)
        bound(drafter)
        if draft == "auto":
            drafter = cast(Any, Alone(drafter, self.company))
        self.kept[key] = manner = Manner(sampling, drafter)
        while len(self.kept) > KEPT:
            self.kept.popitem(last=False)
        return manner

    def drafters(self) -> list[str]:
        """By name, those that this run has."""
        found = []
        for name in ("auto", "none", "targets", "rungs", "ngram"):
            try:
                choose_drafter(name, self.run, self.reader, Sampling(race=True), None, lambda: None, self.weights)
            except BadInput:
                continue
            found.append(name)
        return found
