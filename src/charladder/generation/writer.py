"""Streams of text that a network writes, several at once, each from its own prompt.

A step reads, for every stream, the character chosen last and whatever the drafter proposes after it, in one pass; then
as many of these stand as verification leaves standing, and one more is chosen. Past the context: when a stream holds C
characters, the last C/2 are kept and read again from place 0. So every character is predicted from exactly what
`evaluate --stride C/2` predicts it from, drafted or not.

Shapes: N rows, S streams, V symbols, D width.
"""

import math
import time
from collections.abc import Sequence

import numpy as np

from charladder.errors import BadInput
from charladder.generation.ahead import able, shift, write_ahead
from charladder.generation.drafters import Drafter, NoDrafter
from charladder.generation.sampling import Sampling
from charladder.generation.stream import Manner, Stream, by_manner, random_numbers, sample_numbers
from charladder.generation.verification import Drafts
from charladder.inference.runner import ModelRunner, TokenBatch

AT_ONCE = 256  # characters of prompts read in one pass
PAUSE = 0.02  # seconds of such a call, about: nobody sees that characters come a few at a time


class Writer:
    """Writes `length` characters after each prompt (ids), or fewer where a stop string (ids) ends one.

    A stream's text is a function of the seed, its prompt, its sample number (samples: by default how many equal prompts
    come before it) and, unless chance is a race, what is drafted: with a reader whose rows do not depend on each other
    (packed.PackedReader) it is the same beside other streams as alone. An empty prompt's first character is drawn
    uniformly; TextModel and the service give a newline in place of an empty prompt (opening.py). Raises BadInput for a
    negative length, and for logits that are no numbers.
    """

    def __init__(
        self,
        reader: ModelRunner,
        prompts: Sequence[Sequence[int]] = (),
        length: int = 0,
        sampling: Sampling | None = None,
        seed: int = 0,
        drafter: Drafter | None = None,
        stops: Sequence[Sequence[int]] = (),
        samples: Sequence[int] | None = None,
    ) -> None:
        self.reader = reader
        # The reader has one cache, so one writer uses it at a time. It holds a mark of the writer and not the writer,
        # which holds the reader: a cycle would keep its memory until Python collects cycles.
        self._turn = reader.owner = object()
        self.passes = self.pass_characters = 0  # of one stream each
        self.seconds = 0.0  # of all passes
        self.pace = 0.0  # seconds of a pass of one stream, the last time
        self.steps = 0
        self.streams: list[Stream] = []
        self.drafter = drafter or NoDrafter()
        manner = Manner(sampling or Sampling(), self.drafter)
        samples = sample_numbers([tuple(prompt) for prompt in prompts]) if samples is None else samples
        self.join(
            [
                Stream(number, list(prompt), length, random_numbers(seed, sample, prompt), manner, stops)
                for number, (prompt, sample) in enumerate(zip(prompts, samples, strict=True))
            ]
        )

    @property
    def active(self) -> list[Stream]:
        return [stream for stream in self.streams if stream.finish is None]

    def join(self, streams: Sequence[Stream]) -> None:
        """Further streams: reads their prompts and chooses their first characters. Their numbers must be below the
        reader's `streams`, and no other's. Raises BadInput where that is not so."""
        taken = {stream.number for stream in self.streams}
        if len(taken) + len(streams) > self.reader.slots:
            raise BadInput(
                f"{len(taken) + len(streams)} prompts are more than the {self.reader.slots} streams there are"
            )
        if taken & {stream.number for stream in streams}:
            raise BadInput("a stream has the number of another that is being written")
        self.streams += streams
        beginning = [stream for stream in streams if stream.finish is None]
        for manner, some in by_manner(streams):
            manner.drafter.begin(some)
        V = self.reader.alphabet_size
        for stream in beginning:
            if not stream.prompt:
                if stream.top:
                    stream.look(np.zeros((1, V), np.float32))
                stream.add([int(stream.uniform(0) * V)], [-math.log(V)])
        prompted = [stream for stream in beginning if stream.prompt]
        for manner, some in by_manner(prompted):
            logits_SV = self.read_on(some, [stream.prompt for stream in some])
            ids, _, nats = manner.chooser.pick(logits_SV, [stream.uniform(0) for stream in some])
            for row, (stream, one, said) in enumerate(zip(some, ids, nats, strict=True)):
                if stream.top:
                    stream.look(logits_SV[row : row + 1])
                stream.add([one], [said])

    def leave(self, streams: Sequence[Stream]) -> None:
        """Streams that are done with, ended or not: their numbers are free again."""
        for manner, some in by_manner(streams):
            manner.drafter.end(some)
        gone = set(map(id, streams))
        self.streams = [stream for stream in self.streams if id(stream) not in gone]

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
        logits_SV = np.empty((len(streams), self.reader.alphabet_size), np.float32)
        for begin in range(0, len(rows), AT_ONCE):
            part = rows[begin : begin + AT_ONCE]
            numbers, places, ids = zip(*part, strict=True)
            read = self.reader.run(TokenBatch([streams[number].number for number in numbers], places, ids))
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

    def step(self, pause: float = 0.0) -> None:
        """One further character for every stream that has not ended, or more where drafts stand. With a pause, and
        where no drafter has a say, as many as take about so many seconds, for all streams or for those who have waited
        longest."""
        began, streams = time.perf_counter(), self.active
        if not streams:
            return
        if self.reader.owner is not self._turn:
            raise RuntimeError("another text has been begun with this reader; write one at a time, or use two readers")
        context = self.reader.context
        full = [stream for stream in streams if len(stream.held) == context]
        if full:
            self.turn(full)
        parts = []
        for manner, some in by_manner(streams):
            room = [max(0, min(context - len(s.held), s.length - len(s.ids)) - 1) for s in some]
            parts.append((manner, some, manner.drafter.draft(some, room)))
        passes = len(streams)
        if not any(part[2].ids_M or part[2].x_ND is not None for part in parts):
            passes = written = self.write_ahead(parts, pause) or self.read_chosen(parts)
        elif len(parts) == 1:
            written = self.read_drafts(parts)
        else:  # what a drafter has read in part is read on by itself, all the rest in one pass
            together = [part for part in parts if part[2].x_ND is None]
            alone = [[part] for part in parts if part[2].x_ND is not None]
            written = sum(map(self.read_drafts, [together, *alone] if together else alone))
        seconds = time.perf_counter() - began
        self.pace = seconds / passes
        self.steps += 1
        self.passes += passes
        self.pass_characters += written
        self.seconds += seconds
        if len(parts) == 1:  # what each of several has taken of the seconds, nobody knows
            parts[0][0].drafter.told(passes, written, seconds)

    def write_ahead(self, parts: Sequence[tuple[Manner, list[Stream], Drafts]], pause: float) -> int:
        """As read_chosen, several characters each; 0 where that cannot be."""
        if not pause or not self.pace or not able(self.reader, parts):
            return 0
        streams, most = shift(self.reader, [stream for _, some, _ in parts for stream in some], self.pace, pause)
        if most < 2:
            return 0
        for stream in streams:
            stream.last = self.steps + 1
        return sum(write_ahead(self.reader, manner, some, most) for manner, some in by_manner(streams))

    def read_chosen(self, parts: Sequence[tuple[Manner, list[Stream], Drafts]]) -> int:
        """As read_drafts, where nothing has been drafted: what many streams cost beside the pass is mostly this."""
        together = [stream for _, streams, _ in parts for stream in streams]
        chosen = [stream.ids[-1] for stream in together]
        read = self.reader.run(TokenBatch([s.number for s in together], [len(s.held) for s in together], chosen))
        assert read.logits_NV is not None and read.final_ND is not None
        final_ND, row = read.final_ND.copy(), 0
        for manner, streams, _ in parts:
            logits_NV = read.logits_NV[row : row + len(streams)]
            ids, _, nats = manner.chooser.pick(logits_NV, [stream.uniform(0) for stream in streams])
            for stream, one, said in zip(streams, ids, nats, strict=True):
                stream.held.append(chosen[row])
                stream.final_D = final_ND[row]
                if stream.top:
                    stream.look(read.logits_NV[row : row + 1])
                stream.add([one], [said])
                stream.passes += 1
                stream.given += 1
                row += 1
        return row

    def read_drafts(self, parts: Sequence[tuple[Manner, list[Stream], Drafts]]) -> int:
        """One pass over what has been drafted; the characters that it gives."""
        numbers, places, ids, uniform = [], [], [], []
        for manner, streams, drafts in parts:
            at, numbers_of_part, race = 0, [], manner.sampling.race
            for stream, count in zip(streams, drafts.counts_S, strict=True):
                place = len(stream.held)
                numbers += [stream.number] * (count + 1)
                places += range(place, place + count + 1)
                ids += [stream.chosen, *drafts.ids_M[at : at + count]]
                for ahead in range(count):
                    # In this order, which the text of a seed hangs on.
                    numbers_of_part += [stream.uniform(ahead), 0.0 if race else stream.random.random()]
                numbers_of_part.append(stream.uniform(count))
                at += count
            uniform.append(numbers_of_part)
        first, x_ND = parts[0][2].first, parts[0][2].x_ND
        read = self.reader.run(TokenBatch(numbers, places, ids), first, None, x_ND)
        assert read.logits_NV is not None and read.final_ND is not None
        row, written = 0, 0
        for (manner, streams, drafts), numbers_of_part in zip(parts, uniform, strict=True):
            rows = len(drafts.ids_M) + len(streams)
            verdict = manner.chooser.verify(read.logits_NV[row : row + rows], drafts, numbers_of_part)
            for stream, count, taken, following, nats in zip(
                streams, drafts.counts_S, verdict.taken_S, verdict.next_S, verdict.nats_S, strict=True
            ):
                stream.held += ids[row : row + taken + 1]
                stream.final_D = read.final_ND[row + taken].copy()
                if stream.top:
                    stream.look(read.logits_NV[row : row + taken + 1])
                stream.add([*ids[row + 1 : row + taken + 1], following], nats, taken)
                stream.passes += 1
                stream.given += taken + 1
                written += taken + 1
                row += count + 1
        return written

    def finish(self) -> None:
        """Steps until all streams have ended."""
        while self.active:
            self.step(math.inf)

    @property
    def accepted_per_pass(self) -> float:
        """Characters that a pass gives a stream, on average; 1 without drafts."""
        return self.pass_characters / self.passes if self.passes else 1.0
