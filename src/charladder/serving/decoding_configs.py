"""The decoding configs of a runner, cached by sampling parameters and drafter.

Sampling is coupled (Daliri et al. 2024): the text of a seed depends neither on the drafter nor on other requests.
N-gram drafters look up the text so far and not the training text, which would take too long to count.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, cast, get_args

import torch

from charladder.errors import UserError
from charladder.generation.decoding_config import DecodingConfig
from charladder.generation.distribution import SamplingParams
from charladder.generation.sequence import SequenceState
from charladder.generation.speculative.drafter import Drafts
from charladder.generation.speculative.factory import DrafterName, make_drafter, open_trained_chain
from charladder.generation.speculative.no_drafter import no_drafts
from charladder.inference.runner import ModelRunner
from charladder.model import Transformer
from charladder.run import Run

_MAX_NGRAM_CHARACTERS = 4096  # looked up at the end of a text; indexing a long prompt would delay all texts
_MAX_CACHED_CONFIGS = 16  # each drafter has packed weights of its own


class SingleTextDrafter:
    """Drafts only while a single text is active: with several, a pass has enough to do without drafts."""

    def __init__(self, drafter: Any, num_active: Callable[[], int]) -> None:
        self.drafter, self.num_active, self.name = drafter, num_active, drafter.name
        self.is_active = False
        self.started_ids: set[int] = set()

    def begin(self, sequences: Sequence[SequenceState]) -> None:
        """Delays the drafter's `begin` to the first draft, because reading a prompt delays all texts."""

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


class DecodingConfigs:
    """Makes and caches the configs of one runner, which runs `network`. Not thread-safe."""

    def __init__(
        self, run: Run, network: Transformer, runner: ModelRunner, dtype: torch.dtype, num_active: Callable[[], int]
    ) -> None:
        self.run, self.runner, self.dtype, self.num_active = run, runner, dtype, num_active
        # Shared by all drafters, because it has a cache for all sequences of the runner.
        self.open_chain = functools.cache(lambda: open_trained_chain(run, runner, dtype, network))
        self.cache: OrderedDict[tuple[SamplingParams, DrafterName], DecodingConfig] = OrderedDict()

    def get(self, sampling: SamplingParams, draft: DrafterName) -> DecodingConfig:
        """Raises UserError if the run has no heads for this drafter."""
        key = sampling, draft
        if key in self.cache:
            self.cache.move_to_end(key)
            return self.cache[key]
        drafter = self._make_drafter(draft, sampling)
        if draft == "auto":
            drafter = cast(Any, SingleTextDrafter(drafter, self.num_active))
        self.cache[key] = config = DecodingConfig(sampling, drafter)
        while len(self.cache) > _MAX_CACHED_CONFIGS:
            self.cache.popitem(last=False)
        return config

    def available_drafters(self) -> list[str]:
        """The names of the drafters that this run supports."""
        names = []
        for name in get_args(DrafterName):
            try:
                self._make_drafter(name, SamplingParams(coupled=True))
            except UserError:
                continue
            names.append(name)
        return names

    def _make_drafter(self, name: DrafterName, sampling: SamplingParams) -> Any:
        return make_drafter(
            name, self.run, self.runner, sampling, dtype=self.dtype, max_ngram_characters=_MAX_NGRAM_CHARACTERS,
            open_chain=self.open_chain,
        )  # fmt: skip
