"""The generation loop: sequences that a network continues, several at once, each from its own prompt.

One step runs the network once, for every sequence, over the character chosen last and those that the drafter proposes
after it. Verification accepts some of them, and one more character is chosen. Past the context: a sequence with C
cached characters keeps the last C/2, which are read again from position 0. So every character is predicted from exactly
what `evaluate --stride C/2` predicts it from, drafted or not.

Shapes: N rows, S sequences, V symbols, D width.
"""

import math
import time
from collections.abc import Iterator, Sequence

import numpy as np

from charladder.errors import UserError
from charladder.generation.decoding_config import DecodingConfig
from charladder.generation.distribution import SamplingParams
from charladder.generation.multi_step import multi_step, select_sequences, supports_multi_step
from charladder.generation.sampler import Drafts
from charladder.generation.sequence import SequenceState, make_random, sample_indices
from charladder.generation.speculative import Drafter, NoDrafter
from charladder.inference.factory import open_runner
from charladder.inference.runner import ModelRunner, TokenBatch
from charladder.model import Transformer

PREFILL_CHARACTERS = 256  # characters of prompts that one pass reads at most
STEP_SECONDS = 0.02  # of one step that decodes several characters: short enough to look like one at a time
Group = tuple[DecodingConfig, list[SequenceState]]


class GenerationLoop:
    """Generates `length` characters after each prompt (ids), or fewer where a stop string (ids) ends the sequence.

    A sequence is a function of the seed, its prompt, its sample index (`samples`; by default the number of equal
    prompts before it) and, unless the sampling is coupled, of what is drafted. With a runner whose rows do not depend
    on each other (PackedRunner) it is the same beside other sequences as alone. The first character after an empty
    prompt is drawn uniformly; see empty_prompt.py for what TextGenerator and the service do. Raises UserError for a
    negative length, and for logits that are not finite.
    """

    def __init__(
        self,
        runner: ModelRunner,
        prompts: Sequence[Sequence[int]] = (),
        length: int = 0,
        sampling: SamplingParams | None = None,
        seed: int = 0,
        drafter: Drafter | None = None,
        stops: Sequence[Sequence[int]] = (),
        samples: Sequence[int] | None = None,
    ) -> None:
        self.runner = runner
        # A runner has one cache, so one loop uses it at a time. The runner keeps this mark and not the loop, which has
        # the runner: a reference cycle would keep the cache's memory until Python's garbage collector runs.
        self._ownership = runner.owner = object()
        self.passes = self.pass_characters = 0  # one pass of one sequence counts as one
        self.seconds = 0.0  # of all passes
        self.seconds_per_pass = 0.0  # of one sequence, in the last step
        self.steps = 0
        self.sequences: list[SequenceState] = []
        self.drafter = drafter or NoDrafter()
        self._configs: dict[int, DecodingConfig] = {}  # by slot
        config = DecodingConfig(sampling or SamplingParams(), self.drafter)
        samples = sample_indices([tuple(prompt) for prompt in prompts]) if samples is None else samples
        added = [
            SequenceState(
                slot, list(prompt), length, make_random(seed, sample, prompt), config.sampling.coupled, stops
            )
            for slot, (prompt, sample) in enumerate(zip(prompts, samples, strict=True))
        ]  # fmt: skip
        self.add(added, [config] * len(added))

    @property
    def active(self) -> list[SequenceState]:
        return [sequence for sequence in self.sequences if sequence.finish_reason is None]

    def add(self, sequences: Sequence[SequenceState], configs: Sequence[DecodingConfig]) -> None:
        """Adds sequences with their configurations: reads their prompts and chooses their first characters. Raises
        UserError where their slots are taken or are not below the runner's `slots`."""
        taken = {sequence.slot for sequence in self.sequences}
        if len(taken) + len(sequences) > self.runner.slots:
            raise UserError(
                f"{len(taken) + len(sequences)} prompts are more than the {self.runner.slots} sequences of this runner"
            )
        if taken & {sequence.slot for sequence in sequences}:
            raise UserError("a sequence has the slot of another that is being generated")
        self.sequences += sequences
        self._configs |= {sequence.slot: config for sequence, config in zip(sequences, configs, strict=True)}
        for config, group in self._by_config(sequences):
            config.drafter.begin(group)
        unfinished = [sequence for sequence in sequences if sequence.finish_reason is None]
        V = self.runner.alphabet_size
        for sequence in unfinished:
            if not sequence.prompt:
                if sequence.top:
                    sequence.record_candidates(np.zeros((1, V), np.float32))
                sequence.append([int(sequence.uniform(0) * V)], [-math.log(V)])
        prompted = [sequence for sequence in unfinished if sequence.prompt]
        for config, group in self._by_config(prompted):
            logits_SV = self.prefill(group, [sequence.prompt for sequence in group])
            ids, _, nats = config.sampler.sample(logits_SV, [sequence.uniform(0) for sequence in group])
            for row, (sequence, symbol, log_probability) in enumerate(zip(group, ids, nats, strict=True)):
                if sequence.top:
                    sequence.record_candidates(logits_SV[row : row + 1])
                sequence.append([symbol], [log_probability])

    def remove(self, sequences: Sequence[SequenceState]) -> None:
        """Removes sequences, finished or not: their slots are free again."""
        for config, group in self._by_config(sequences):
            config.drafter.end(group)
        removed = set(map(id, sequences))
        for sequence in sequences:
            del self._configs[sequence.slot]
        self.sequences = [sequence for sequence in self.sequences if id(sequence) not in removed]

    def prefill(self, sequences: Sequence[SequenceState], texts: Sequence[list[int]]) -> np.ndarray:
        """Reads further characters of sequences, in as few passes as possible, by the rule for what lies past the
        context. Returns the logits after each sequence's last character, (S, V)."""
        step, rows = self.runner.context // 2, []
        for number, (sequence, ids) in enumerate(zip(sequences, texts, strict=True)):
            over = len(sequence.cached_ids) + len(ids) - self.runner.context
            if over > 0:
                ids = (sequence.cached_ids + ids)[-(-over // step) * step :]
                sequence.cached_ids = []
            rows += [(number, len(sequence.cached_ids) + n, symbol) for n, symbol in enumerate(ids)]
        logits_SV = np.empty((len(sequences), self.runner.alphabet_size), np.float32)
        for begin in range(0, len(rows), PREFILL_CHARACTERS):
            part = rows[begin : begin + PREFILL_CHARACTERS]
            numbers, positions, ids = zip(*part, strict=True)
            output = self.runner.run(TokenBatch([sequences[number].slot for number in numbers], positions, ids))
            assert output.logits_NV is not None and output.final_ND is not None
            for row, (number, _, symbol) in enumerate(part):
                sequences[number].cached_ids.append(symbol)
                if row + 1 == len(part) or part[row + 1][0] != number:
                    logits_SV[number], sequences[number].final_D = output.logits_NV[row], output.final_ND[row].copy()
        return logits_SV

    def truncate_context(self, sequences: Sequence[SequenceState]) -> None:
        """Forgets the first of C cached characters, so that there is room for the last character chosen."""
        step, kept = self.runner.context // 2, []
        for sequence in sequences:
            over = len(sequence.cached_ids) + 1 - self.runner.context
            kept.append(sequence.cached_ids[-(-over // step) * step :])
            sequence.cached_ids = []
        self.prefill(sequences, kept)

    def step(self, seconds: float = 0.0) -> None:
        """Generates one further character for every unfinished sequence, or more where drafts are accepted.

        With `seconds`, and where no drafter proposes anything, it generates as many characters as take about so long:
        for all sequences, or for those that have waited longest.
        """
        began, sequences = time.perf_counter(), self.active
        if not sequences:
            return
        if self.runner.owner is not self._ownership:
            raise RuntimeError("another loop uses this runner; run one loop at a time, or use two runners")
        context = self.runner.context
        full = [sequence for sequence in sequences if len(sequence.cached_ids) == context]
        if full:
            self.truncate_context(full)
        parts = []
        for config, group in self._by_config(sequences):
            limits = [max(0, min(context - len(s.cached_ids), s.length - len(s.ids)) - 1) for s in group]
            parts.append((config, group, config.drafter.draft(group, limits)))
        passes = len(sequences)
        if not any(drafts.ids_M or drafts.x_ND is not None for _, _, drafts in parts):
            passes = characters = self.try_multi_step(parts, seconds) or self.decode(parts)
        elif len(parts) == 1:
            characters = self.verify(parts)
        else:  # drafts with hidden states continue a pass of their own; all others share one pass
            together = [part for part in parts if part[2].x_ND is None]
            alone = [[part] for part in parts if part[2].x_ND is not None]
            characters = sum(map(self.verify, [together, *alone] if together else alone))
        elapsed = time.perf_counter() - began
        self.seconds_per_pass = elapsed / passes
        self.steps += 1
        self.passes += passes
        self.pass_characters += characters
        self.seconds += elapsed
        if len(parts) == 1:  # of several drafters it is not known which one took how much of the time
            parts[0][0].drafter.observe(passes, characters, elapsed)

    def try_multi_step(
        self, parts: Sequence[tuple[DecodingConfig, list[SequenceState], Drafts]], seconds: float
    ) -> int:
        """As decode, with several characters for each sequence; 0 where that is not possible."""
        if not seconds or not self.seconds_per_pass or not supports_multi_step(self.runner, parts):
            return 0
        every = [sequence for _, group, _ in parts for sequence in group]
        sequences, steps = select_sequences(self.runner, every, self.seconds_per_pass, seconds)
        if steps < 2:
            return 0
        for sequence in sequences:
            sequence.last_step = self.steps + 1
        return sum(multi_step(self.runner, config, group, steps) for config, group in self._by_config(sequences))

    def decode(self, parts: Sequence[tuple[DecodingConfig, list[SequenceState], Drafts]]) -> int:
        """One pass without drafts; returns the number of characters. The same as verify with empty drafts, with less
        work in Python, which is most of the cost beside the pass where there are many sequences."""
        sequences = [sequence for _, group, _ in parts for sequence in group]
        last_ids = [sequence.ids[-1] for sequence in sequences]
        positions = [len(sequence.cached_ids) for sequence in sequences]
        output = self.runner.run(TokenBatch([sequence.slot for sequence in sequences], positions, last_ids))
        assert output.logits_NV is not None and output.final_ND is not None
        final_ND, row = output.final_ND.copy(), 0
        for config, group, _ in parts:
            logits_NV = output.logits_NV[row : row + len(group)]
            ids, _, nats = config.sampler.sample(logits_NV, [sequence.uniform(0) for sequence in group])
            for sequence, symbol, log_probability in zip(group, ids, nats, strict=True):
                sequence.cached_ids.append(last_ids[row])
                sequence.final_D = final_ND[row]
                if sequence.top:
                    sequence.record_candidates(output.logits_NV[row : row + 1])
                sequence.append([symbol], [log_probability])
                sequence.passes += 1
                sequence.emitted += 1
                row += 1
        return row

    def verify(self, parts: Sequence[tuple[DecodingConfig, list[SequenceState], Drafts]]) -> int:
        """One pass over what has been drafted; returns the number of characters that it gives."""
        slots, positions, ids, uniforms = [], [], [], []
        for config, group, drafts in parts:
            at, uniforms_of_part, coupled = 0, [], config.sampling.coupled
            for sequence, count in zip(group, drafts.counts_S, strict=True):
                position = len(sequence.cached_ids)
                slots += [sequence.slot] * (count + 1)
                positions += range(position, position + count + 1)
                ids += [sequence.last_id, *drafts.ids_M[at : at + count]]
                for offset in range(count):
                    # In this order: the text of a seed depends on it.
                    uniforms_of_part += [sequence.uniform(offset), 0.0 if coupled else sequence.random.random()]
                uniforms_of_part.append(sequence.uniform(count))
                at += count
            uniforms.append(uniforms_of_part)
        first_layer, x_ND = parts[0][2].first_layer, parts[0][2].x_ND
        output = self.runner.run(TokenBatch(slots, positions, ids), first_layer, None, x_ND)
        assert output.logits_NV is not None and output.final_ND is not None
        row, characters = 0, 0
        for (config, group, drafts), uniforms_of_part in zip(parts, uniforms, strict=True):
            rows = len(drafts.ids_M) + len(group)
            result = config.sampler.verify(output.logits_NV[row : row + rows], drafts, uniforms_of_part)
            for sequence, count, accepted, next_id, nats in zip(
                group, drafts.counts_S, result.accepted_S, result.next_S, result.nats_S, strict=True
            ):
                sequence.cached_ids += ids[row : row + accepted + 1]
                sequence.final_D = output.final_ND[row + accepted].copy()
                if sequence.top:
                    sequence.record_candidates(output.logits_NV[row : row + accepted + 1])
                sequence.append([*ids[row + 1 : row + accepted + 1], next_id], nats, accepted)
                sequence.passes += 1
                sequence.emitted += accepted + 1
                characters += accepted + 1
                row += count + 1
        return characters

    def run(self) -> None:
        """Steps until all sequences are finished."""
        while self.active:
            self.step(math.inf)

    @property
    def accepted_per_pass(self) -> float:
        """Characters per pass of a sequence, on average; 1 without drafts."""
        return self.pass_characters / self.passes if self.passes else 1.0

    def _by_config(self, sequences: Sequence[SequenceState]) -> list[Group]:
        """Sequences with the same configuration together, in their order."""
        if len(sequences) == 1:  # the most common case: a pass of a small network takes little more than what follows
            return [(self._configs[sequences[0].slot], [*sequences])]
        groups: dict[int, Group] = {}
        for sequence in sequences:
            config = self._configs[sequence.slot]
            groups.setdefault(id(config), (config, []))[1].append(sequence)
        return list(groups.values())


def generate(
    network: Transformer,
    prompt: list[int],
    length: int,
    sampling: SamplingParams | None = None,
    seed: int = 0,
    context: int | None = None,
    drafter: Drafter | None = None,
) -> Iterator[int]:
    """Yields `length` characters that follow `prompt`, as ids, distributed as the network says.

    The first character after an empty prompt is drawn uniformly, because the alphabet is not known here: see
    empty_prompt.py. The same seed gives the same text on one machine, as long as the drafter is the same and does not
    depend on measured time. Raises UserError for a negative length.
    """
    loop = GenerationLoop(open_runner(network, 1, context), [prompt], length, sampling, seed, drafter)
    (sequence,) = loop.sequences
    done = 0
    while True:
        yield from sequence.ids[done:]
        done = len(sequence.ids)
        if sequence.finish_reason:
            return
        loop.step(STEP_SECONDS)
