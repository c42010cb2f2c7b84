"""How texts are written, by what a request asks for. Chance is a race (Daliri et al. 2024), so the text of a seed is
the same whatever drafts, and whoever else is being served. Drafts by n-grams know the text so far alone: to count those
of the training text would keep everybody waiting."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

from charladder.errors import UserError
from charladder.generation.decoding_config import DecodingConfig
from charladder.generation.distribution import SamplingParams
from charladder.generation.sampler import Drafts
from charladder.generation.sequence import SequenceState
from charladder.generation.speculative import AutoDrafter, NgramDrafter
from charladder.generation.speculative.factory import DrafterName, make_drafter
from charladder.generation.speculative.no_drafter import no_drafts
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

    def begin(self, sequences: Sequence[SequenceState]) -> None:
        """Later, if it comes to that: to take in a prompt takes time from everybody."""

    def draft(self, sequences: Sequence[SequenceState], limits: Sequence[int]) -> Drafts:
        self.on = self.company() == 1
        if not self.on:
            return no_drafts(sequences, idle=True)
        new = [sequence for sequence in sequences if id(sequence) not in self.begun]
        self.drafter.begin(new)
        self.begun |= {id(sequence) for sequence in new}
        return self.drafter.draft(sequences, limits)

    def end(self, sequences: Sequence[SequenceState]) -> None:
        self.drafter.end([sequence for sequence in sequences if id(sequence) in self.begun])
        self.begun -= {id(sequence) for sequence in sequences}

    def observe(self, passes: int, characters: int, seconds: float) -> None:
        if self.on:
            self.drafter.observe(passes, characters, seconds)


def bound(drafter: object) -> None:
    """An n-gram drafter looks up in the last part of a text alone: all of a long prompt would hold everybody up."""
    if isinstance(drafter, NgramDrafter):
        drafter.max_characters = LOOKED_UP


class Manners:
    """Finds or makes them. Not for several threads at once."""

    def __init__(
        self,
        run: Run,
        runner: ModelRunner,
        weights: torch.dtype,
        company: Callable[[], int],
    ) -> None:
        self.run, self.runner, self.weights, self.company = run, runner, weights, company
        self.kept: OrderedDict[tuple[SamplingParams, DrafterName], DecodingConfig] = OrderedDict()

    def of(self, sampling: SamplingParams, draft: DrafterName) -> DecodingConfig:
        """Raises UserError where the run has nothing to draft with in this way."""
        key = sampling, draft
        if key in self.kept:
            self.kept.move_to_end(key)
            return self.kept[key]
        drafter = make_drafter(draft, self.run, self.runner, sampling, None, lambda: None, self.weights)
        for one in drafter.candidates if isinstance(drafter, AutoDrafter) else ():
            bound(one.drafter)
        bound(drafter)
        if draft == "auto":
            drafter = cast(Any, Alone(drafter, self.company))
        self.kept[key] = config = DecodingConfig(sampling, drafter)
        while len(self.kept) > KEPT:
            self.kept.popitem(last=False)
        return config

    def drafters(self) -> list[str]:
        """By name, those that this run has."""
        found = []
        for name in ("auto", "none", "targets", "early-exit", "ngram"):
            try:
                make_drafter(
                    name, self.run, self.runner, SamplingParams(coupled=True), None, lambda: None, self.weights
                )
            except UserError:
                continue
            found.append(name)
        return found
