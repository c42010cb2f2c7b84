"""Early exit: an intermediate layer drafts through a classifier of its own, and the layers above verify from the same
cache (LayerSkip, Elhoushi et al. 2024). What the drafter has computed is not computed again.

Shapes: N rows, D width, V symbols, M drafts of all sequences.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from charladder.errors import UserError
from charladder.generation.distribution import SamplingParams
from charladder.generation.sampler import Drafts, make_sampler
from charladder.generation.speculative.no_drafter import no_drafts
from charladder.inference.runner import ModelRunner, TokenBatch

if TYPE_CHECKING:
    from charladder.generation.sequence import SequenceState

EPSILON = 1e-5  # of the norm without parameters


class EarlyExitDrafter:
    """Layer `layer` of the runner's network proposes `length` characters.

    weight (V, D), bias (V,): of its classifier. normed: whether the classifier reads the state normalized without
    parameters.
    """

    name = "early-exit"

    def __init__(
        self,
        runner: ModelRunner,
        layer: int,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        sampling: SamplingParams,
        length: int = 3,
        normed: bool = True,
    ) -> None:
        self.runner, self.layer, self.max_length, self.normed = runner, layer, length, normed
        self.weight_DV = np.ascontiguousarray(weight_VD.detach().float().cpu().numpy().T)
        self.bias_V = np.float32(0) if bias_V is None else bias_V.detach().float().cpu().numpy()
        self.sampler = make_sampler(sampling)

    def begin(self, sequences: Sequence["SequenceState"]) -> None:
        """Nothing to prepare."""

    def draft(self, sequences: Sequence["SequenceState"], limits: Sequence[int]) -> Drafts:
        counts = [min(self.max_length, n) for n in limits]
        if not any(counts):
            return Drafts(counts, [], None)
        said: list[list[int]] = [[sequence.last_id] for sequence in sequences]
        q: list[list[np.ndarray]] = [[] for _ in sequences]
        x: list[list[np.ndarray]] = [[] for _ in sequences]
        for step in range(max(counts) + 1):
            on = [n for n, count in enumerate(counts) if step <= count]
            rows = TokenBatch(
                [sequences[n].slot for n in on],
                [len(sequences[n].cached_ids) + step for n in on],
                [said[n][step] for n in on],
            )
            x_ND = self.runner.run(rows, 0, self.layer).x_ND.copy()
            for n, x_D in zip(on, x_ND, strict=True):
                x[n].append(x_D)
            drafting = [place for place, n in enumerate(on) if step < counts[n]]
            if not drafting:
                continue
            logits_NV = self.logits(x_ND[drafting])
            uniform = [sequences[on[place]].uniform(step) for place in drafting]
            try:
                ids, q_NV, _ = self.sampler.sample(logits_NV, uniform)
            except UserError:  # this head is broken, which is no reason not to write
                return no_drafts(sequences)
            for place, one, q_V in zip(drafting, ids, q_NV, strict=True):
                said[on[place]].append(one)
                q[on[place]].append(q_V)
        return Drafts(
            counts,
            [one for ids in said for one in ids[1:]],
            np.stack([q_V for rows in q for q_V in rows]),
            self.layer,
            np.stack([x_D for rows in x for x_D in rows]),
        )

    def logits(self, x_ND: np.ndarray) -> np.ndarray:
        if self.normed:
            x_ND = torch.nn.functional.layer_norm(torch.from_numpy(x_ND), x_ND.shape[-1:], eps=EPSILON).numpy()
        # Row by row, each a product of its own: one of several may differ in its last bits from that of one.
        return np.matmul(x_ND[:, None], self.weight_DV)[:, 0] + self.bias_V

    def end(self, sequences: Sequence["SequenceState"]) -> None:
        """Nothing to forget."""

    def observe(self, passes: int, characters: int, seconds: float) -> None:
        """Nothing to learn."""
