"""One text that is being written, and the manner in which.

Shapes: V symbols, D width.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from charladder.errors import BadInput
from charladder.generation.drafters import Drafter
from charladder.generation.sampling import Sampling, likeliest
from charladder.generation.stopping import settled
from charladder.generation.verification import Chooser, choose_chooser


@dataclass(eq=False)
class Manner:
    """How texts are written: what becomes of the model's distribution, and what drafts. Streams of one manner are
    drafted and verified together."""

    sampling: Sampling
    drafter: Drafter
    chooser: Chooser = field(init=False)

    def __post_init__(self) -> None:
        self.chooser = choose_chooser(self.sampling)


def random_numbers(seed: int, sample: int, prompt: Sequence[int]) -> random.Random:
    """The random numbers of one text: a function of the seed, of the prompt (ids), and of `sample`, which counts the
    texts after the same prompt. The prompt is part of it because texts that share random numbers become the same text
    as soon as the network predicts about the same for both."""
    digest = hashlib.sha256(np.asarray(prompt, "<i8").tobytes()).hexdigest()
    return random.Random(f"{seed} {sample} {digest}")


def sample_numbers(prompts: Sequence[Hashable]) -> list[int]:
    """For each prompt, how many equal ones come before it: the `sample` of its text."""
    seen: Counter[Hashable] = Counter()
    numbers = []
    for prompt in prompts:
        numbers.append(seen[prompt])
        seen[prompt] += 1
    return numbers


@dataclass(eq=False, slots=True)
class Stream:
    """One text. `ids` are the characters written, `nats` their log-probabilities by the model (whatever the sampling),
    `drafted` whether each was proposed by a drafter; of these, `shown` are settled: no stop string can take them back.
    `likeliest`, where `top` asks for it: so many symbols at every place, with their nats, the likeliest first.
    `finish`: None, `length` or `stop`."""

    number: int
    prompt: list[int]
    length: int
    random: random.Random
    manner: Manner
    stops: Sequence[Sequence[int]] = ()
    top: int = 0
    ids: list[int] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)
    drafted: list[bool] = field(default_factory=list)
    likeliest: list[list[tuple[int, float]]] = field(default_factory=list)
    shown: int = 0
    passes: int = 0  # and what they gave, more than `ids` where a text ended in the middle
    given: int = 0
    last: int = 0  # the step in which it was written
    finish: str | None = None
    held: list[int] = field(default_factory=list)  # in the cache: all but the character chosen last
    final_D: np.ndarray | None = None  # what the output layer read at the last of them
    keys: list[float] | None = field(init=False)  # in a race: one number for each place of the text

    def __post_init__(self) -> None:
        if self.length < 0:
            raise BadInput(f"--length is {self.length}; it must be at least 0")
        self.keys = [] if self.manner.sampling.race else None
        if not self.length:
            self.finish = "length"

    @property
    def chosen(self) -> int:
        """The last character, which the network has not read."""
        return self.ids[-1]

    def uniform(self, ahead: int) -> float:
        """A random number below 1 for the choice of the character `ahead` further ones from the next."""
        if self.keys is None:
            return self.random.random()
        while len(self.keys) <= len(self.ids) + ahead:
            self.keys.append(self.random.random())
        return self.keys[len(self.ids) + ahead]

    def add(self, ids: Sequence[int], nats: Sequence[float], drafts: int = 0) -> None:
        """Further characters, the first `drafts` of them proposed by a drafter, as far as neither the length nor a stop
        string ends the text."""
        room = self.length - len(self.ids)
        ids, nats = ids[:room], nats[:room]
        if self.stops:
            for place, (one, said) in enumerate(zip(ids, nats, strict=True)):
                self.ids.append(one)
                self.nats.append(said)
                self.drafted.append(place < drafts)
                self.shown, stopped = settled(self.ids, self.stops)
                if stopped:
                    self.finish = "stop"
                    for said_of_each in (self.ids, self.nats, self.drafted, self.likeliest):
                        del said_of_each[self.shown :]
                    return
        else:
            self.ids += ids
            self.nats += nats
            self.drafted += [place < drafts for place in range(len(ids))]
            self.shown = len(self.ids)
        if len(self.ids) == self.length:
            self.finish, self.shown = "length", self.length

    def look(self, logits_NV: np.ndarray) -> None:
        """Notes the likeliest symbols at the next places, a row each."""
        self.likeliest += likeliest(torch.from_numpy(logits_NV), self.top)


def by_manner(streams: Sequence[Stream]) -> list[tuple[Manner, list[Stream]]]:
    """Streams of one manner together, in their order."""
    if len(streams) == 1:  # as mostly; a pass of a small network is not much longer than what follows
        return [(streams[0].manner, [*streams])]
    groups: dict[int, tuple[Manner, list[Stream]]] = {}
    for stream in streams:
        groups.setdefault(id(stream.manner), (stream.manner, []))[1].append(stream)
    return list(groups.values())
