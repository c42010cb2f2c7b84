"""Target heads draft: what the network's last state says of the characters after the next.

Shapes: N streams, K targets, D width, F feed-forward width, V symbols, M drafts of all streams.
"""

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from charladder.errors import BadInput
from charladder.generation.drafters.none import nothing
from charladder.generation.heads import Chain
from charladder.generation.sampling import BROKEN, Sampling
from charladder.generation.verification import SOURCES, Drafts, choose_chooser, compiled_sampling
from charladder.inference.packed import address, interleave_gate, pack_panels, scratch_size
from charladder.kernels import native
from charladder.model.norm import EPSILON

if TYPE_CHECKING:
    from charladder.generation.stream import Stream


class PlainTargets:
    """A classifier for each distance: they know the characters read, and not the ones drafted before their own.
    heads: by distance, 2, 3 ... K: (V, D), and (V,) or None."""

    name = "targets"

    def __init__(self, heads: dict[int, tuple[Tensor, Tensor | None]], sampling: Sampling, length: int = 8) -> None:
        self.most = 0
        while self.most + 2 in heads and self.most < length:
            self.most += 1
        chosen = [heads[k] for k in range(2, self.most + 2)]
        self.weight_KVD = torch.stack([weight.detach().float().cpu() for weight, _ in chosen]).numpy()
        self.bias_KV = np.stack(
            [np.zeros(len(w), np.float32) if b is None else b.detach().float().cpu().numpy() for w, b in chosen]
        )
        self.chooser = choose_chooser(sampling)

    def begin(self, streams: Sequence["Stream"]) -> None:
        """Nothing to prepare."""

    def draft(self, streams: Sequence["Stream"], most: Sequence[int]) -> Drafts:
        counts = [min(self.most, n) if s.final_D is not None else 0 for s, n in zip(streams, most, strict=True)]
        rows, uniform = [], []
        for stream, count in zip(streams, counts, strict=True):
            if count and stream.final_D is not None:
                rows.append(self.weight_KVD[:count] @ stream.final_D + self.bias_KV[:count])
                uniform += [stream.uniform(place) for place in range(count)]
        if not rows:
            return Drafts(counts, [], None)
        try:
            ids, q_MV, _ = self.chooser.pick(np.concatenate(rows), uniform)
        except BadInput:  # these heads are broken, which is no reason not to write
            return nothing(streams)
        return Drafts(counts, ids, q_MV)

    def end(self, streams: Sequence["Stream"]) -> None:
        """Nothing to forget."""

    def told(self, passes: int, characters: int, seconds: float) -> None:
        """Nothing to learn."""


class CompiledChain(ctypes.Structure):
    """As in chain.c."""

    _fields_ = [
        *((name, ctypes.c_long) for name in "DFV"),
        ("epsilon", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("embedding", "gain", "final_gain", "gate_up", "down", "output")),
    ]


class ChainedTargets:
    """Each draft knows those before it. In C where that can be had, else with the module itself."""

    name = "targets"

    def __init__(self, chain: Chain, sampling: Sampling, length: int = 4, weights: torch.dtype = torch.float32) -> None:
        self.chain, self.most = chain, length
        self.chooser = choose_chooser(sampling)
        self.sampling = compiled_sampling(sampling)
        self.library = native.library(weights, SOURCES)
        gate_up = interleave_gate(chain.gate.weight.detach(), chain.up.weight.detach())
        self.tensors = [
            chain.embedding.weight.detach(),
            chain.norm.weight.detach(),
            chain.final_norm.weight.detach(),
            *(pack_panels(m, weights) for m in (gate_up, chain.down.weight.detach(), chain.output.weight.detach())),
        ]
        self.alphabet, self.width = chain.embedding.weight.shape
        self.inside = len(chain.gate.weight)
        self.work = np.empty(0, np.float32)
        self.packed = CompiledChain(
            self.width, self.inside, self.alphabet, EPSILON, *(address(tensor) for tensor in self.tensors)
        )

    def begin(self, streams: Sequence["Stream"]) -> None:
        """Nothing to prepare."""

    def draft(self, streams: Sequence["Stream"], most: Sequence[int]) -> Drafts:
        counts = [min(self.most, n) if s.final_D is not None else 0 for s, n in zip(streams, most, strict=True)]
        drafting = [(stream, count) for stream, count in zip(streams, counts, strict=True) if count]
        if not drafting:
            return Drafts(counts, [], None)
        uniform = [stream.uniform(place) for stream, count in drafting for place in range(count)]
        state_ND = np.array([stream.final_D for stream, _ in drafting])
        ids, few = [stream.chosen for stream, _ in drafting], [count for _, count in drafting]
        found = self.in_torch if self.library is None else self.in_c
        try:
            return Drafts(counts, *found(state_ND, ids, few, uniform))
        except BadInput:  # these heads are broken, which is no reason not to write
            return nothing(streams)

    def in_c(
        self, state_ND: np.ndarray, ids: list[int], counts: list[int], uniform: list[float]
    ) -> tuple[list[int], np.ndarray]:
        N, M, V = len(ids), sum(counts), self.alphabet
        q_MV, drafted = np.empty((M, V)), (ctypes.c_int64 * M)()
        # A small layer is done before a second thread has come.
        threads = torch.get_num_threads() if self.width * self.inside * N >= 1 << 17 else 1
        room = N * (self.width + self.inside + V) + threads * scratch_size(N, max(self.width, self.inside))
        if len(self.work) < room:
            self.work = np.empty(room, np.float32)
        longs, doubles = ctypes.c_int64 * N, ctypes.c_double * M
        assert self.library is not None
        bad = self.library.draft_chain(
            ctypes.byref(self.packed), ctypes.c_long(N), address(state_ND), longs(*ids), longs(*counts),
            ctypes.byref(self.sampling), doubles(*uniform), drafted, address(q_MV), address(self.work),
            ctypes.c_int(threads),
        )  # fmt: skip
        if bad:
            raise BadInput(BROKEN)
        return list(drafted), q_MV

    @torch.inference_mode()
    def in_torch(
        self, state_ND: np.ndarray, ids: list[int], counts: list[int], uniform: list[float]
    ) -> tuple[list[int], np.ndarray]:
        drafted, q = [], []
        at = 0
        for state_D, one, count in zip(state_ND, ids, counts, strict=True):
            state_BTD = torch.from_numpy(state_D).to(self.chain.output.weight)[None, None]
            for step in range(count):
                state_BTD, logits_BTV = self.chain(state_BTD, torch.tensor([[one]], device=state_BTD.device))
                (one,), p_NV, _ = self.chooser.pick(logits_BTV[0].float().cpu().numpy(), [uniform[at + step]])
                drafted.append(one)
                q.append(p_NV)
            at += count
        return drafted, np.concatenate(q)

    def end(self, streams: Sequence["Stream"]) -> None:
        """Nothing to forget."""

    def told(self, passes: int, characters: int, seconds: float) -> None:
        """Nothing to learn."""
