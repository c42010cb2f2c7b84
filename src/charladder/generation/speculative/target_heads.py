"""Drafters with heads that predict the next characters from the last hidden state (the input of the output layer).

Shapes: N sequences, K targets, D width, F feed-forward width, V symbols, M drafts of all sequences.
"""

import ctypes
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from charladder.generation.distribution import NonFiniteLogits, SamplingParams
from charladder.generation.sampler import SOURCES, make_sampler, to_c
from charladder.generation.speculative.drafter import Drafter, Drafts
from charladder.generation.speculative.drafting_heads import ChainedHead
from charladder.generation.speculative.no_drafter import no_drafts
from charladder.inference.pack_weights import interleave_gate, pack_panels, scratch_size
from charladder.inference.thread_choice import ThreadChoices
from charladder.kernels import native
from charladder.kernels.native import address
from charladder.model.norm import EPSILON

if TYPE_CHECKING:
    from charladder.generation.sequence import SequenceState


class IndependentHeadsDrafter(Drafter):
    """Drafts with one linear head per distance, as in Medusa: a draft does not depend on the earlier drafts.
    heads: for each distance k >= 2 weight (V, D) and bias (V,) or None."""

    name = "targets"

    def __init__(
        self, heads: dict[int, tuple[Tensor, Tensor | None]], sampling: SamplingParams, length: int = 8
    ) -> None:
        self.max_length = 0
        while self.max_length + 2 in heads and self.max_length < length:
            self.max_length += 1
        selected = [heads[k] for k in range(2, self.max_length + 2)]
        self.weight_KVD = torch.stack([weight.detach().float().cpu() for weight, _ in selected]).numpy()
        self.bias_KV = np.stack(
            [np.zeros(len(w), np.float32) if b is None else b.detach().float().cpu().numpy() for w, b in selected]
        )
        self.sampler = make_sampler(sampling)

    def draft(self, sequences: Sequence["SequenceState"], limits: Sequence[int]) -> Drafts:
        counts = [
            min(self.max_length, n) if s.normed_D is not None else 0 for s, n in zip(sequences, limits, strict=True)
        ]
        rows, uniform = [], []
        for sequence, count in zip(sequences, counts, strict=True):
            if count and sequence.normed_D is not None:
                rows.append(self.weight_KVD[:count] @ sequence.normed_D + self.bias_KV[:count])
                uniform += [sequence.uniform(offset) for offset in range(count)]
        if not rows:
            return Drafts(counts, [], None)
        try:
            ids, q_MV, _ = self.sampler.sample(np.concatenate(rows), uniform)
        except NonFiniteLogits:  # of the heads; the network itself can still generate
            return no_drafts(sequences)
        return Drafts(counts, ids, q_MV)


class CDraftChain(ctypes.Structure):
    """The struct DraftChain in draft_chain.c."""

    _fields_ = [
        *((name, ctypes.c_long) for name in "DFV"),
        ("epsilon", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("embedding", "gain", "final_gain", "gate_up", "down", "output")),
    ]


class ChainedHeadDrafter(Drafter):
    """Drafts with a ChainedHead: each draft is conditioned on the earlier ones. Uses C if it is available."""

    name = "targets"

    def __init__(
        self, chain: ChainedHead, sampling: SamplingParams, length: int = 4, dtype: torch.dtype = torch.float32
    ) -> None:
        self.chain, self.max_length = chain, length
        self.sampler = make_sampler(sampling)
        self.sampling = to_c(sampling)
        self.library = native.library(dtype, SOURCES)
        gate_up = interleave_gate(chain.gate.weight.detach(), chain.up.weight.detach())
        self.tensors = [
            chain.embedding.weight.detach(),
            chain.norm.weight.detach(),
            chain.final_norm.weight.detach(),
            *(pack_panels(m, dtype) for m in (gate_up, chain.down.weight.detach(), chain.output.weight.detach())),
        ]
        self.alphabet, self.width = chain.embedding.weight.shape
        self.hidden = len(chain.gate.weight)
        self.work = np.empty(0, np.float32)
        self.thread_choices = ThreadChoices()
        self.packed = CDraftChain(
            self.width, self.hidden, self.alphabet, EPSILON, *(address(tensor) for tensor in self.tensors)
        )

    def draft(self, sequences: Sequence["SequenceState"], limits: Sequence[int]) -> Drafts:
        counts = [
            min(self.max_length, n) if s.normed_D is not None else 0 for s, n in zip(sequences, limits, strict=True)
        ]
        drafting = [(sequence, count) for sequence, count in zip(sequences, counts, strict=True) if count]
        if not drafting:
            return Drafts(counts, [], None)
        uniform = [sequence.uniform(offset) for sequence, count in drafting for offset in range(count)]
        state_ND = np.array([sequence.normed_D for sequence, _ in drafting])
        ids, positive_counts = [sequence.last_id for sequence, _ in drafting], [count for _, count in drafting]
        draft = self._draft_reference if self.library is None else self._draft_native
        try:
            return Drafts(counts, *draft(state_ND, ids, positive_counts, uniform))
        except NonFiniteLogits:  # of the heads; the network itself can still generate
            return no_drafts(sequences)

    def _draft_native(
        self, state_ND: np.ndarray, ids: list[int], counts: list[int], uniform: list[float]
    ) -> tuple[list[int], np.ndarray]:
        N, M, V = len(ids), sum(counts), self.alphabet
        q_MV, drafted = np.empty((M, V)), (ctypes.c_int64 * M)()
        # A small layer takes less time than starting a second thread.
        may_share, multiplications = self.width * self.hidden * N >= 1 << 17, self.width * self.hidden * M
        thread_choice = self.thread_choices.for_size(multiplications)
        all_threads = may_share and thread_choice.use_all_threads(multiplications)
        threads = torch.get_num_threads() if all_threads else 1
        work_size = N * (self.width + self.hidden + V) + threads * scratch_size(N, max(self.width, self.hidden))
        if len(self.work) < work_size:
            self.work = np.empty(work_size, np.float32)
        longs, doubles = ctypes.c_int64 * N, ctypes.c_double * M
        assert self.library is not None
        begin = time.perf_counter()
        is_not_finite = self.library.draft_chain(
            ctypes.byref(self.packed), ctypes.c_long(N), address(state_ND), longs(*ids), longs(*counts),
            ctypes.byref(self.sampling), doubles(*uniform), drafted, address(q_MV), address(self.work),
            ctypes.c_int(threads),
        )  # fmt: skip
        if may_share:
            thread_choice.observe(all_threads, multiplications, time.perf_counter() - begin)
        if is_not_finite:
            raise NonFiniteLogits
        return list(drafted), q_MV

    @torch.inference_mode()
    def _draft_reference(
        self, state_ND: np.ndarray, ids: list[int], counts: list[int], uniform: list[float]
    ) -> tuple[list[int], np.ndarray]:
        drafted, q = [], []
        first = 0
        for state_D, last_id, count in zip(state_ND, ids, counts, strict=True):
            state_BTD = torch.from_numpy(state_D).to(self.chain.output.weight)[None, None]
            for step in range(count):
                state_BTD, logits_BTV = self.chain(state_BTD, torch.tensor([[last_id]], device=state_BTD.device))
                (last_id,), p_NV, _ = self.sampler.sample(logits_BTV[0].float().cpu().numpy(), [uniform[first + step]])
                drafted.append(last_id)
                q.append(p_NV)
            first += count
        return drafted, np.concatenate(q)
