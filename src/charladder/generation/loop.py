"""The generation loop: generates text after several prompts, in one batch.

One step runs the network once for every sequence, on its last character and the characters that the drafter proposes
after it. Verification accepts the first of these, or none, and samples one more. When the cache of a sequence is full
(C characters), it is filled again with the last C/2. Every character is thus predicted from the same context as with
`evaluate --stride C/2`.

Shapes: N rows, S sequences, V symbols, D width.
"""

import math
import time
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from charladder.errors import UserError
from charladder.generation.decoding_config import DecodingConfig
from charladder.generation.distribution import SamplingParams
from charladder.generation.multi_step import multi_step, select_sequences, supports_multi_step
from charladder.generation.sequence import SequenceState, make_random, sample_indices
from charladder.generation.speculative import Drafter, NoDrafter
from charladder.generation.speculative.drafter import Drafts
from charladder.generation.speculative.verification import verify_drafts
from charladder.inference.factory import open_runner
from charladder.inference.runner import ModelRunner, TokenBatch
from charladder.model import Transformer

PREFILL_CHARACTERS = 256  # maximum number of prompt characters in one pass
STEP_SECONDS = 0.02  # duration of a multi-step decoding call, short enough for streaming
Group = tuple[DecodingConfig, list[SequenceState]]


class GenerationLoop:
    """Generates `length` characters after each prompt (ids), or fewer if a stop string (ids) ends the sequence.

    A sequence depends on the seed, its prompt, its sample index (`samples`; by default the number of earlier equal
    prompts) and, unless the sampling is coupled, on the drafts. With PackedRunner it does not depend on the other
    sequences; with other runners these may change the last bits of its logits. The first character after an empty
    prompt is drawn uniformly; TextGenerator and the service replace empty prompts (empty_prompt.py). Raises UserError
    for a negative length, and for logits that are not finite.
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
        # A runner has one cache, so only one loop can use it. Its owner is this token and not the loop itself: a
        # reference cycle would keep the memory of the cache until the garbage collector runs.
        self._ownership = runner.owner = object()
        self.passes = self.pass_characters = 0  # a pass over S sequences counts as S
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
        """Adds sequences with their configurations, reads their prompts and samples their first characters. Raises
        UserError if a slot is taken or there are more sequences than slots."""
        used_slots = {sequence.slot for sequence in self.sequences}
        if len(used_slots) + len(sequences) > self.runner.slots:
            raise UserError(
                f"{len(used_slots) + len(sequences)} prompts are more than the {self.runner.slots} slots of this runner"
            )
        if used_slots & {sequence.slot for sequence in sequences}:
            raise UserError("a sequence has the slot of another that is being generated")
        self.sequences += sequences
        self._configs |= {sequence.slot: config for sequence, config in zip(sequences, configs, strict=True)}
        for config, group in self._by_config(sequences):
            config.drafter.begin(group)
        unfinished = [sequence for sequence in sequences if sequence.finish_reason is None]
        V = self.runner.alphabet_size
        for sequence in unfinished:
            if not sequence.prompt:
                if sequence.num_candidates:
                    sequence.record_candidates(np.zeros((1, V), np.float32))
                sequence.append([int(sequence.uniform(0) * V)], [-math.log(V)])
        prompted = [sequence for sequence in unfinished if sequence.prompt]
        for config, group in self._by_config(prompted):
            logits_SV = self.prefill(group, [sequence.prompt for sequence in group])
            ids, _, nats = config.sampler.sample(logits_SV, [sequence.uniform(0) for sequence in group])
            for row, (sequence, symbol, log_probability) in enumerate(zip(group, ids, nats, strict=True)):
                if sequence.num_candidates:
                    sequence.record_candidates(logits_SV[row : row + 1])
                sequence.append([symbol], [log_probability])

    def remove(self, sequences: Sequence[SequenceState]) -> None:
        """Removes sequences, finished or not, and frees their slots."""
        for config, group in self._by_config(sequences):
            config.drafter.end(group)
        removed = set(map(id, sequences))
        for sequence in sequences:
            del self._configs[sequence.slot]
        self.sequences = [sequence for sequence in self.sequences if id(sequence) not in removed]

    def prefill(self, sequences: Sequence[SequenceState], texts: Sequence[list[int]]) -> np.ndarray:
        """Reads further characters of sequences in as few passes as possible, and truncates the context if necessary.
        Returns the logits after the last character of each sequence, (S, V)."""
        half_context, rows = self.runner.context // 2, []
        for number, (sequence, ids) in enumerate(zip(sequences, texts, strict=True)):
            excess = len(sequence.cached_ids) + len(ids) - self.runner.context
            if excess > 0:
                ids = (sequence.cached_ids + ids)[-(-excess // half_context) * half_context :]
                sequence.clear_cache()
            rows += [(number, len(sequence.cached_ids) + n, symbol) for n, symbol in enumerate(ids)]
        logits_SV = np.empty((len(sequences), self.runner.alphabet_size), np.float32)
        for begin in range(0, len(rows), PREFILL_CHARACTERS):
            part = rows[begin : begin + PREFILL_CHARACTERS]
            numbers, positions, ids = zip(*part, strict=True)
            output = self.runner.run(TokenBatch([sequences[number].slot for number in numbers], positions, ids))
            assert output.logits_NV is not None and output.normed_ND is not None
            first = 0
            for number, rows_of_sequence in groupby(numbers):
                last = first + len(list(rows_of_sequence))
                sequences[number].extend_cache(ids[first:last], output.normed_ND[first:last].copy())
                logits_SV[number], first = output.logits_NV[last - 1], last
        return logits_SV

    def truncate_context(self, sequences: Sequence[SequenceState]) -> None:
        """Keeps the last half of each cached context, so that there is room for another character."""
        half_context, recent = self.runner.context // 2, []
        for sequence in sequences:
            excess = len(sequence.cached_ids) + 1 - self.runner.context
            recent.append(sequence.cached_ids[-(-excess // half_context) * half_context :])
            sequence.clear_cache()
        self.prefill(sequences, recent)

    def step(self, seconds: float = 0.0) -> None:
        """Generates one character for every unfinished sequence, or more if drafts are accepted.

        seconds: without drafts, generates as many characters as take about this long, for all sequences or for those
        that have waited longest.
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
        else:  # drafts with hidden states need a pass of their own; all others share one pass
            shared = [part for part in parts if part[2].x_ND is None]
            single = [[part] for part in parts if part[2].x_ND is not None]
            characters = sum(map(self.verify, [shared, *single] if shared else single))
        elapsed = time.perf_counter() - began
        self.seconds_per_pass = elapsed / passes
        self.steps += 1
        self.passes += passes
        self.pass_characters += characters
        self.seconds += elapsed
        if len(parts) == 1:  # with several drafters, the time of each is unknown
            parts[0][0].drafter.observe(passes, characters, elapsed)

    def try_multi_step(
        self, parts: Sequence[tuple[DecodingConfig, list[SequenceState], Drafts]], seconds: float
    ) -> int:
        """As `decode`, with several characters for each sequence. Returns 0 if that is not possible."""
        if not seconds or not self.seconds_per_pass or not supports_multi_step(self.runner, parts):
            return 0
        candidates = [sequence for _, group, _ in parts for sequence in group]
        sequences, steps = select_sequences(self.runner, candidates, self.seconds_per_pass, seconds)
        if steps < 2:
            return 0
        for sequence in sequences:
            sequence.last_step = self.steps + 1
        return sum(multi_step(self.runner, config, group, steps) for config, group in self._by_config(sequences))

    def decode(self, parts: Sequence[tuple[DecodingConfig, list[SequenceState], Drafts]]) -> int:
        """Runs one pass without drafts. Returns the number of characters. Equals `verify` with empty drafts, with less
        overhead, which matters with many sequences."""
        sequences = [sequence for _, group, _ in parts for sequence in group]
        last_ids = [sequence.ids[-1] for sequence in sequences]
        positions = [len(sequence.cached_ids) for sequence in sequences]
        output = self.runner.run(TokenBatch([sequence.slot for sequence in sequences], positions, last_ids))
        assert output.logits_NV is not None and output.normed_ND is not None
        normed_ND, row = output.normed_ND.copy(), 0
        for config, group, _ in parts:
            logits_NV = output.logits_NV[row : row + len(group)]
            ids, _, nats = config.sampler.sample(logits_NV, [sequence.uniform(0) for sequence in group])
            for sequence, symbol, log_probability in zip(group, ids, nats, strict=True):
                sequence.extend_cache(last_ids[row : row + 1], normed_ND[row : row + 1])
                if sequence.num_candidates:
                    sequence.record_candidates(output.logits_NV[row : row + 1])
                sequence.append([symbol], [log_probability])
                sequence.passes += 1
                sequence.emitted += 1
                row += 1
        return row

    def verify(self, parts: Sequence[tuple[DecodingConfig, list[SequenceState], Drafts]]) -> int:
        """Runs one pass over the drafts and verifies them. Returns the number of characters generated."""
        slots, positions, ids, uniforms = [], [], [], []
        for config, group, drafts in parts:
            first, uniforms_of_part, coupled = 0, [], config.sampling.coupled
            for sequence, count in zip(group, drafts.counts_S, strict=True):
                position = len(sequence.cached_ids)
                slots += [sequence.slot] * (count + 1)
                positions += range(position, position + count + 1)
                ids += [sequence.last_id, *drafts.ids_M[first : first + count]]
                for offset in range(count):
                    # The text of a seed depends on the order of these random numbers.
                    uniforms_of_part += [sequence.uniform(offset), 0.0 if coupled else sequence.random.random()]
                uniforms_of_part.append(sequence.uniform(count))
                first += count
            uniforms.append(uniforms_of_part)
        first_layer, x_ND = parts[0][2].first_layer, parts[0][2].x_ND
        output = self.runner.run(TokenBatch(slots, positions, ids), first_layer, None, x_ND)
        assert output.logits_NV is not None and output.normed_ND is not None
        row, characters = 0, 0
        for (config, group, drafts), uniforms_of_part in zip(parts, uniforms, strict=True):
            rows = len(drafts.ids_M) + len(group)
            result = verify_drafts(config.sampler, output.logits_NV[row : row + rows], drafts, uniforms_of_part)
            for sequence, count, accepted, next_id, nats in zip(
                group, drafts.counts_S, result.accepted_S, result.next_S, result.nats_S, strict=True
            ):
                read = slice(row, row + accepted + 1)
                sequence.extend_cache(ids[read], output.normed_ND[read].copy())
                if sequence.num_candidates:
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
        """Mean number of characters per pass of a sequence; 1 without drafts."""
        return self.pass_characters / self.passes if self.passes else 1.0

    def _by_config(self, sequences: Sequence[SequenceState]) -> list[Group]:
        """Groups sequences by configuration; keeps their order."""
        if len(sequences) == 1:  # the most common case; for a small network, the code below takes as long as a pass
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
    """Yields the ids of `length` characters after `prompt`, sampled from the distribution of the network.

    The first character after an empty prompt is drawn uniformly. On one machine, the same seed and drafter give the
    same text, unless the drafter depends on measured time. Raises UserError for a negative length.
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
