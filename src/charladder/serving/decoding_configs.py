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

_MAX_NGRAM_CHARACTERS = 4096  # characters
_MAX_CACHED_CONFIGS = 16  # manners; a drafter packs its weights for itself


class SingleTextDrafter:
    """Drafts for one text while it is the only one: in company a pass is full anyway."""

    def __init__(self, drafter: Any, num_active: Callable[[], int]) -> None:
        self.drafter, self.num_active, self.name = drafter, num_active, drafter.name
        self.is_active = False
        self.started_ids: set[int] = set()

    def begin(self, sequences: Sequence[SequenceState]) -> None:
        """Later, if it comes to that: to take in a prompt takes time from everybody."""

    def draft(self, sequences: Sequence[SequenceState], limits: Sequence[int]) -> Drafts:
        self.is_active = self.num_active() == 1
        if not self.is_active:
            return no_drafts(sequences, idle=True)
        new = [sequence for sequence in sequences if id(sequence) not in self.started_ids]
        self.drafter.begin(new)
        self.started_ids |= {id(sequence) for sequence in new}
        return self.drafter.draft(sequences, limits)

    def end(self, sequences: Sequence[SequenceState]) -> None:
        self.drafter.end([sequence for sequence in sequences if id(sequence) in self.started_ids])
        self.started_ids -= {id(sequence) for sequence in sequences}

    def observe(self, passes: int, characters: int, seconds: float) -> None:
        if self.is_active:
            self.drafter.observe(passes, characters, seconds)


def _limit_ngram_lookup(drafter: object) -> None:
    """An n-gram drafter looks up in the last part of a text alone: all of a long prompt would hold everybody up."""
    if isinstance(drafter, NgramDrafter):
        drafter.max_characters = _MAX_NGRAM_CHARACTERS


class DecodingConfigs:
    """Finds or makes them. Not for several threads at once."""

    def __init__(
        self,
        run: Run,
        runner: ModelRunner,
        weights: torch.dtype,
        num_active: Callable[[], int],
    ) -> None:
        self.run, self.runner, self.weights, self.num_active = run, runner, weights, num_active
        self.cache: OrderedDict[tuple[SamplingParams, DrafterName], DecodingConfig] = OrderedDict()

    def get(self, sampling: SamplingParams, draft: DrafterName) -> DecodingConfig:
        """Raises UserError where the run has nothing to draft with in this way."""
        key = sampling, draft
        if key in self.cache:
            self.cache.move_to_end(key)
            return self.cache[key]
        drafter = make_drafter(draft, self.run, self.runner, sampling, None, lambda: None, self.weights)
        for one in drafter.candidates if isinstance(drafter, AutoDrafter) else ():
            _limit_ngram_lookup(one.drafter)
        _limit_ngram_lookup(drafter)
        if draft == "auto":
            drafter = cast(Any, SingleTextDrafter(drafter, self.num_active))
        self.cache[key] = config = DecodingConfig(sampling, drafter)
        while len(self.cache) > _MAX_CACHED_CONFIGS:
            self.cache.popitem(last=False)
        return config

    def available_drafters(self) -> list[str]:
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
