"""The state of a sequence, independent of drafter and sampling parameters.

Shapes: V symbols, D width.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from charladder.errors import UserError
from charladder.generation.distribution import top_candidates
from charladder.generation.stop_strings import find_safe_length


def make_random(seed: int, sample: int, prompt: Sequence[int]) -> random.Random:
    """The random number generator of a sequence, a function of the seed, the prompt (ids) and `sample`, the number of
    earlier sequences with the same prompt. It depends on the prompt because sequences with equal random numbers tend to
    become equal."""
    digest = hashlib.sha256(np.asarray(prompt, "<i8").tobytes()).hexdigest()
    return random.Random(f"{seed} {sample} {digest}")


def sample_indices(prompts: Sequence[Hashable]) -> list[int]:
    """For each prompt the number of earlier equal prompts."""
    seen: Counter[Hashable] = Counter()
    numbers = []
    for prompt in prompts:
        numbers.append(seen[prompt])
        seen[prompt] += 1
    return numbers


@dataclass(eq=False, slots=True)
class SequenceState:
    """slot: its index in the runner's cache. length: the maximum number of characters. coupled: the random numbers of a
    position do not depend on the drafts (see SamplingParams).

    ids: the characters generated so far. nats: their log-probabilities before temperature, top-k, top-p and min-p.
    drafted: whether a drafter proposed each of them. safe_length: how many of them cannot become part of a
    stop string. candidates: at every position the `num_candidates` most likely symbols with their nats, the most likely
    first.
    finish_reason: None, `length` or `stop`. Raises UserError for a negative length.
    """

    slot: int
    prompt: list[int]
    length: int
    random: random.Random
    coupled: bool = False
    stops: Sequence[Sequence[int]] = ()
    num_candidates: int = 0
    ids: list[int] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)
    drafted: list[bool] = field(default_factory=list)
    candidates: list[list[tuple[int, float]]] = field(default_factory=list)
    safe_length: int = 0
    passes: int = 0  # forward passes of this sequence
    emitted: int = 0  # characters of these passes, including those that a stop string removed
    last_step: int = 0  # the step of the loop in which it was last decoded
    finish_reason: str | None = None
    cached_ids: list[int] = field(default_factory=list)  # the characters in the cache: all but the last
    normed_D: np.ndarray | None = None  # the input of the output layer at the last cached character
    # normed_D of the last cached characters, if a drafter reads them. Each time that the cache is filled again, it is a
    # new list.
    normed_states: list[np.ndarray] | None = None
    uniforms: list[float] | None = field(init=False)  # coupled: one random number for each position

    def __post_init__(self) -> None:
        if self.length < 0:
            raise UserError(field="length", value=self.length, rule="it must be at least 0")
        self.uniforms = [] if self.coupled else None
        if not self.length:
            self.finish_reason = "length"

    @property
    def last_id(self) -> int:
        """The last character, which the network has not read yet."""
        return self.ids[-1]

    def uniform(self, offset: int) -> float:
        """The random number in [0, 1) for the character `offset` positions after the next one."""
        if self.uniforms is None:
            return self.random.random()
        while len(self.uniforms) <= len(self.ids) + offset:
            self.uniforms.append(self.random.random())
        return self.uniforms[len(self.ids) + offset]

    def extend_cache(self, ids: Sequence[int], normed_ND: np.ndarray) -> None:
        """Records characters that the network has read, and the inputs of its output layer, which may not be
        overwritten later."""
        self.cached_ids += ids
        self.normed_D = normed_ND[-1]
        if self.normed_states is not None:
            self.normed_states += [*normed_ND]

    def clear_cache(self) -> None:
        self.cached_ids = []
        self.normed_states = None if self.normed_states is None else []

    def append(self, ids: Sequence[int], nats: Sequence[float], drafts: int = 0) -> None:
        """Appends characters, of which the first `drafts` were drafted, until the length or a stop string ends the
        sequence."""
        room = self.length - len(self.ids)
        ids, nats = ids[:room], nats[:room]
        if self.stops:
            for index, (symbol, log_probability) in enumerate(zip(ids, nats, strict=True)):
                self.ids.append(symbol)
                self.nats.append(log_probability)
                self.drafted.append(index < drafts)
                self.safe_length, stopped = find_safe_length(self.ids, self.stops)
                if stopped:
                    self.finish_reason = "stop"
                    for values in (self.ids, self.nats, self.drafted, self.candidates):
                        del values[self.safe_length :]
                    return
        else:
            self.ids += ids
            self.nats += nats
            self.drafted += [index < drafts for index in range(len(ids))]
            self.safe_length = len(self.ids)
        if len(self.ids) == self.length:
            self.finish_reason, self.safe_length = "length", self.length

    def record_candidates(self, logits_NV: np.ndarray) -> None:
        """Records the most likely symbols of the next positions, one for each row."""
        self.candidates += top_candidates(torch.from_numpy(logits_NV), self.num_candidates)
