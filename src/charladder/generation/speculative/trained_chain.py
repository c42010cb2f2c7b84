"""The chained modules that were trained with the network (objective.target_heads = "chained") as a drafter.

The module of target k has a layer with attention. Its keys and values are in a runner of their own, whose layer k - 2
is the layer of that module. At position t it reads the characters up to t + k - 1. Positions that were computed from
drafts are computed again in the next pass.

Shapes: T positions of a sequence, N rows, D width, V symbols.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from charladder.generation.distribution import NonFiniteLogits, SamplingParams
from charladder.generation.sampler import make_sampler
from charladder.generation.speculative.drafter import Drafter, Drafts
from charladder.generation.speculative.no_drafter import no_drafts
from charladder.inference.factory import open_runner
from charladder.inference.packed_runner import PackedRunner
from charladder.inference.runner import ModelRunner, TokenBatch
from charladder.model import Transformer
from charladder.objective import ChainedModule

if TYPE_CHECKING:
    from charladder.generation.sequence import SequenceState

_MAX_ROWS = 256  # of a pass
_MIN_SHARED_PRODUCTS = 1 << 17  # starting a second thread takes longer than a smaller pass
_Module = TypeVar("_Module", bound=nn.Module)


class TrainedChain:
    """Chained modules with a cache for the sequences of the runner of their network.

    modules: those of the targets 2, 3 and so on. dtype: of their layers, which run on the device of the network. All
    else is computed on the CPU in float32.
    """

    def __init__(
        self, network: Transformer, modules: Sequence[ChainedModule], runner: ModelRunner, dtype: torch.dtype
    ) -> None:
        self.length = len(modules)
        layers = _network_of_layers(network, modules, runner.context)
        self.runner = open_runner(layers, runner.slots, runner.context, dtype)
        if isinstance(self.runner, PackedRunner) and isinstance(runner, PackedRunner):
            self.runner.set_thread_policy(lambda n: n >= _MIN_SHARED_PRODUCTS and runner.uses_all_threads(n))
        self.modules = [_on_cpu(module) for module in modules]
        for module in self.modules:
            del module.block  # the runner has it
        self.embedding, self.norm = _on_cpu(network.embedding), _on_cpu(network.norm)
        self.projections = [RowwiseLinear(module.projection) for module in modules]
        self.output = RowwiseLinear(network.output)

    def join(self, step: int, states_ND: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        """The inputs of the layer of target `step` + 2."""
        embedded_ND = self.embedding(torch.tensor(ids))
        return self.projections[step](self.modules[step].concatenate(torch.from_numpy(states_ND), embedded_ND))

    def run_layer(self, step: int, slots: Sequence[int], positions: Sequence[int], x_ND: np.ndarray) -> np.ndarray:
        """The states of target `step` + 2."""
        states = []
        for begin in range(0, len(slots), _MAX_ROWS):
            rows = slice(begin, begin + _MAX_ROWS)
            batch = TokenBatch(slots[rows], positions[rows], [0] * len(slots[rows]))
            states.append(self.runner.run(batch, step, step + 1, x_ND[rows]).x_ND.copy())
        return np.concatenate(states)

    def logits(self, states_ND: np.ndarray) -> np.ndarray:
        return self.output(self.norm(torch.from_numpy(states_ND)))


class RowwiseLinear:
    """A linear layer with one product for each row, so that the last bits of a row do not depend on other rows."""

    def __init__(self, layer: nn.Linear) -> None:
        self.weight_IO = np.ascontiguousarray(layer.weight.detach().float().cpu().numpy().T)
        bias = cast(Any, layer.bias)  # None without bias
        self.bias_O = np.float32(0) if bias is None else bias.detach().float().cpu().numpy()

    def __call__(self, x_NI: Tensor) -> np.ndarray:
        return np.matmul(x_NI.numpy()[:, None], self.weight_IO)[:, 0] + self.bias_O


def _on_cpu(module: _Module) -> _Module:
    return copy.deepcopy(module).float().cpu().eval().requires_grad_(False)


def _network_of_layers(network: Transformer, modules: Sequence[ChainedModule], context: int) -> Transformer:
    """A network with the layers of the modules. Its embedding and its output layer are not used."""
    positions = "rotary" if network.settings.positions == "rotary" else "table"
    settings = replace(network.settings, layers=len(modules), context=context, positions=positions, ngrams=0)
    chain = Transformer(settings, 1)
    chain.blocks = nn.ModuleList(module.block for module in modules)
    for table in chain.tables:  # chained modules add no positions
        nn.init.zeros_(table)
    return chain.to(network.output.weight.device).eval()


@dataclass
class _Progress:
    """Of a sequence: the states that it has read, and by module, how many positions were computed without drafts."""

    normed_states: list[np.ndarray]
    done: list[int]


@dataclass
class _Draft:
    """Of a sequence in one pass. length: the number of positions. text: their characters, the last character and the
    drafts. starts: the first position that each module computes. states_TD: the states of the last T positions from the
    module before."""

    sequence: "SequenceState"
    count: int
    length: int
    text: list[int]
    starts: list[int]
    states_TD: np.ndarray
    q: list[np.ndarray] = field(default_factory=list)


class TrainedChainDrafter(Drafter):
    """Drafts with one chained module for each distance: each draft is conditioned on the earlier ones.

    A sequence that `begin` does not see before its prompt is read has attention to the positions after that only. This
    affects the drafts, not the distribution of the text.
    """

    name = "targets"

    def __init__(self, chain: TrainedChain, sampling: SamplingParams, length: int | None = None) -> None:
        self.chain, self.max_length = chain, min(length or chain.length, chain.length)
        self.sampler = make_sampler(sampling)
        self.progress: dict[int, _Progress] = {}  # by slot

    def begin(self, sequences: Sequence["SequenceState"]) -> None:
        for sequence in sequences:
            if sequence.normed_states is None:
                sequence.normed_states = [] if sequence.normed_D is None else [sequence.normed_D]

    @torch.inference_mode()
    def draft(self, sequences: Sequence["SequenceState"], limits: Sequence[int]) -> Drafts:
        counts = [min(self.max_length, n) if s.normed_states else 0 for s, n in zip(sequences, limits, strict=True)]
        drafts = [self._start(s, count) for s, count in zip(sequences, counts, strict=True) if count]
        try:
            for step in range(max(counts, default=0)):
                self._draft_one([draft for draft in drafts if step < draft.count], step)
        except NonFiniteLogits:  # of the modules; the network itself can still generate
            return no_drafts(sequences)
        q = [q_V for draft in drafts for q_V in draft.q]
        ids = [symbol for draft in drafts for symbol in draft.text[-draft.count :]]
        return Drafts(counts, ids, np.stack(q) if q else None)

    def _start(self, sequence: "SequenceState", count: int) -> _Draft:
        """What is known before the first draft. Sets what will be computed without drafts."""
        states = sequence.normed_states or []
        progress = self.progress.get(sequence.slot)
        if progress is None or progress.normed_states is not states:  # a new sequence, or its context was truncated
            progress = self.progress[sequence.slot] = _Progress(states, [0] * self.chain.length)
        T = len(states)
        starts = [min(done, T - 1) for done in progress.done[:count]]
        for step in reversed(range(count - 1)):  # a module reads the states of the one before
            starts[step] = min(starts[step], starts[step + 1])
        progress.done[:count] = [max(0, T - step) for step in range(count)]
        text = [*sequence.cached_ids[-T:], sequence.last_id]
        return _Draft(sequence, count, T, text, starts, np.stack(states[starts[0] :]))

    def _draft_one(self, drafts: Sequence[_Draft], step: int) -> None:
        """Drafts character number `step` of each sequence. Raises NonFiniteLogits."""
        slots, positions, characters = [], [], []
        for draft in drafts:
            begin, end = draft.starts[step], draft.length
            draft.states_TD = draft.states_TD[begin - end :]
            slots += [draft.sequence.slot] * (end - begin)
            positions += range(begin, end)
            characters += draft.text[begin + step + 1 : end + step + 1]
        x_ND = self.chain.join(step, np.concatenate([draft.states_TD for draft in drafts]), characters)
        ends = np.cumsum([len(draft.states_TD) for draft in drafts])
        states_ND = self.chain.run_layer(step, slots, positions, x_ND)
        for draft, states_TD in zip(drafts, np.split(states_ND, ends[:-1]), strict=True):
            draft.states_TD = states_TD
        logits_NV = self.chain.logits(states_ND[ends - 1])
        uniform = [draft.sequence.uniform(step) for draft in drafts]
        ids, q_NV, _ = self.sampler.sample(logits_NV, uniform)
        for draft, symbol, q_V in zip(drafts, ids, q_NV, strict=True):
            draft.text.append(symbol)
            draft.q.append(q_V)

    def end(self, sequences: Sequence["SequenceState"]) -> None:
        for sequence in sequences:
            self.progress.pop(sequence.slot, None)
