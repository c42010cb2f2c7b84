"""Streams of text that a network writes, several at once, each from its own prompt.

A step reads, for every stream, the character chosen last and whatever the drafter proposes after it, in one pass; then
as many of these stand as verification leaves standing, and one more is chosen. Past the context: when a stream holds C
characters, the last C/2 are kept and read again from place 0. So every character is predicted from exactly what
`evaluate --stride C/2` predicts it from, drafted or not.

Shapes: S streams, V symbols, D width.
"""

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from charladder.errors import BadInput
from charladder.generation.drafters import Drafter, NoDrafter
from charladder.generation.sampling import Sampling
from charladder.generation.stopping import settled
from charladder.generation.verification import choose_chooser
from charladder.model.reading import Reader, Rows

AT_ONCE = 256  # characters of prompts read in one pass


@dataclass
class Stream:
    """One text. `ids` are the characters written, `nats` their log-probabilities by the model (whatever the sampling);
    of these, `shown` are settled: no stop string can take them back. `finish`: None, `length` or `stop`."""

    number: int
    prompt: list[int]
    length: int
    random: random.Random
    stops: Sequence[Sequence[int]] = ()
    keys: list[float] | None = None  # in a race: one number for each place of the text, whatever is drafted
    ids: list[int] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)
    shown: int = 0
    finish: str | None = None
    held: list[int] = field(default_factory=list)  # in the cache: all but the character chosen last
    final_D: np.ndarray | None = None  # what the output layer read at the last of them

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

    def add(self, ids: Sequence[int], nats: Sequence[float]) -> None:
        """Further characters, as far as neither the length nor a stop string ends the text."""
        room = self.length - len(self.ids)
        for one, said in zip(ids[:room], nats[:room], strict=True):
            self.ids.append(one)
            self.nats.append(said)
            if self.stops:
                self.shown, stopped = settled(self.ids, self.stops)
                if stopped:
                    self.finish = "stop"
                    del self.ids[self.shown :], self.nats[self.shown :]
                    return
        if not self.stops:
            self.shown = len(self.ids)
        if len(self.ids) == self.length:
            self.finish, self.shown = "length", self.length


class Writer:
    """Writes `length` characters after each prompt (ids), or fewer where a stop string (ids) ends one.

    A stream's text is a function of the seed, its number (that of the first is `first`), its prompt and, unless chance
    is a race, what is drafted: with a reader whose rows do not depend on each other (packed.PackedReader) it is the
    same beside other streams as alone. An empty prompt's first character is drawn uniformly, which is what evaluation
    charges for it. Raises BadInput for a negative length, and for logits that are no numbers.
    """

    def __init__(
        self,
        reader: Reader,
        prompts: Sequence[Sequence[int]],
        length: int,
        sampling: Sampling | None = None,
        seed: int = 0,
        drafter: Drafter | None = None,
        stops: Sequence[Sequence[int]] = (),
        first: int = 0,
    ) -> None:
        if length < 0:
            raise BadInput(f"--length is {length}; it must be at least 0")
        if len(prompts) > reader.streams:
            raise BadInput(f"{len(prompts)} prompts are more than the {reader.streams} streams there are")
        self.reader, self.drafter = reader, drafter or NoDrafter()
        reader.writer = self  # one at a time: the cache is one
        self.sampling = sampling or Sampling()
        self.chooser = choose_chooser(self.sampling)
        self.passes = self.pass_characters = 0  # of one stream each
        self.seconds = 0.0  # of all passes
        self.streams = [
            Stream(
                number,
                list(prompt),
                length,
                random.Random(f"{seed} {first + number}"),
                stops,
                [] if self.sampling.race else None,
            )
            for number, prompt in enumerate(prompts)
        ]
        self.drafter.begin(self.streams)
        if length:
            self.begin()
        else:
            for stream in self.streams:
                stream.finish = "length"

    @property
    def active(self) -> list[Stream]:
        return [stream for stream in self.streams if stream.finish is None]

    def begin(self) -> None:
        """Reads the prompts and chooses the first characters."""
        V = self.reader.alphabet
        for stream in self.streams:
            if not stream.prompt:
                stream.add([int(stream.uniform(0) * V)], [-math.log(V)])
        prompted = [stream for stream in self.streams if stream.prompt]
        if not prompted:
            return
        logits_SV = self.read_on(prompted, [stream.prompt for stream in prompted])
        ids, _, nats = self.chooser.pick(logits_SV, [stream.uniform(0) for stream in prompted])
        for stream, one, said in zip(prompted, ids, nats, strict=True):
            stream.add([one], [said])

    def read_on(self, streams: Sequence[Stream], texts: Sequence[list[int]]) -> np.ndarray:
        """Reads further characters of streams, by the rule for what lies past the context, as many of them in one pass
        as can be; the logits after each stream's last, (S, V)."""
        step, rows = self.reader.context // 2, []
        for number, (stream, ids) in enumerate(zip(streams, texts, strict=True)):
            over = len(stream.held) + len(ids) - self.reader.context
            if over > 0:
                ids = (stream.held + ids)[-(-over // step) * step :]
                stream.held = []
            rows += [(number, len(stream.held) + n, one) for n, one in enumerate(ids)]
        logits_SV = np.empty((len(streams), self.reader.alphabet), np.float32)
        for begin in range(0, len(rows), AT_ONCE):
            part = rows[begin : begin + AT_ONCE]
            numbers, places, ids = zip(*part, strict=True)
            read = self.reader.read(Rows([streams[number].number for number in numbers], places, ids))
            assert read.logits_NV is not None and read.final_ND is not None
            for row, (number, _, one) in enumerate(part):
                streams[number].held.append(one)
                if row + 1 == len(part) or part[row + 1][0] != number:
                    logits_SV[number], streams[number].final_D = read.logits_NV[row], read.final_ND[row].copy()
        return logits_SV

    def turn(self, streams: Sequence[Stream]) -> None:
        """Forgets the first of C characters, so that there is room for the one chosen last."""
        step, kept = self.reader.context // 2, []
        for stream in streams:
            over = len(stream.held) + 1 - self.reader.context
            kept.append(stream.held[-(-over // step) * step :])
            stream.held = []
        self.read_on(streams, kept)

    def step(self) -> None:
        """At least one further character for every stream that has not ended."""
        began, streams = time.perf_counter(), self.active
        if not streams:
            return
        if self.reader.writer is not self:
            raise RuntimeError("another text has been begun with this reader; write one at a time, or use two readers")
        context, most = self.reader.context, []
        full = [stream for stream in streams if len(stream.held) == context]
        if full:
            self.turn(full)
        for stream in streams:
            most.append(max(0, min(context - len(stream.held), stream.length - len(stream.ids)) - 1))
        drafts = self.drafter.draft(streams, most)
        numbers, places, ids, uniform = [], [], [], []
        at = 0
        for stream, count in zip(streams, drafts.counts_S, strict=True):
            place = len(stream.held)
            numbers += [stream.number] * (count + 1)
            places += range(place, place + count + 1)
            ids += [stream.chosen, *drafts.ids_M[at : at + count]]
            for place in range(count):
                uniform += [stream.uniform(place), 0.0 if self.sampling.race else stream.random.random()]
            uniform.append(stream.uniform(count))
            at += count
        read = self.reader.read(Rows(numbers, places, ids), drafts.first, None, drafts.x_ND)
        assert read.logits_NV is not None and read.final_ND is not None
        verdict = self.chooser.verify(read.logits_NV, drafts, uniform)
        row, written = 0, 0
        for stream, count, taken, following, nats in zip(
            streams, drafts.counts_S, verdict.taken_S, verdict.next_S, verdict.nats_S, strict=True
        ):
            stream.held += ids[row : row + taken + 1]
            stream.final_D = read.final_ND[row + taken].copy()
            stream.add([*ids[row + 1 : row + taken + 1], following], nats)
            written += taken + 1
            row += count + 1
        seconds = time.perf_counter() - began
        self.passes += len(streams)
        self.pass_characters += written
        self.seconds += seconds
        self.drafter.told(len(streams), written, seconds)

    def finish(self) -> None:
        """Steps until all streams have ended."""
        while self.active:
            self.step()

    @property
    def accepted_per_pass(self) -> float:
        """Characters that a pass gives a stream, on average; 1 without drafts."""
        return self.pass_characters / self.passes if self.passes else 1.0
