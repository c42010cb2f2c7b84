"""The early-exit drafter: an intermediate layer drafts through its own classifier, and the layers above verify with the
same cache (LayerSkip, Elhoushi et al. 2024). The lower layers are not run again.

Shapes: N rows, D width, V symbols, M drafts of all sequences.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from charladder.generation.distribution import NonFiniteLogits, SamplingParams
from charladder.generation.sampler import make_sampler
from charladder.generation.speculative.drafter import Drafter, Drafts
from charladder.generation.speculative.no_drafter import no_drafts
from charladder.inference.runner import ModelRunner, TokenBatch

if TYPE_CHECKING:
    from charladder.generation.sequence import SequenceState

EPSILON = 1e-5  # of the layer norm before the classifier


class EarlyExitDrafter(Drafter):
    """Proposes up to `length` characters with layer `layer` of the runner's network.

    weight_VD, bias_V: the classifier. normed: whether its input is normalized (without parameters).
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

    def draft(self, sequences: Sequence["SequenceState"], limits: Sequence[int]) -> Drafts:
        counts = [min(self.max_length, n) for n in limits]
        if not any(counts):
            return Drafts(counts, [], None)
        drafts: list[list[int]] = [[sequence.last_id] for sequence in sequences]
        q: list[list[np.ndarray]] = [[] for _ in sequences]
        x: list[list[np.ndarray]] = [[] for _ in sequences]
        # A sequence with n drafts needs n + 1 states: verification continues from the state of its last draft too.
        for step in range(max(counts) + 1):
            active = [n for n, count in enumerate(counts) if step <= count]
            batch = TokenBatch(
                [sequences[n].slot for n in active],
                [len(sequences[n].cached_ids) + step for n in active],
                [drafts[n][step] for n in active],
            )
            x_ND = self.runner.run(batch, 0, self.layer).x_ND.copy()
            for n, x_D in zip(active, x_ND, strict=True):
                x[n].append(x_D)
            # In its last step, a sequence does not draft.
            drafting = [row for row, n in enumerate(active) if step < counts[n]]
            if not drafting:
                continue
            logits_NV = self.logits(x_ND[drafting])
            uniform = [sequences[active[row]].uniform(step) for row in drafting]
            try:
                ids, q_NV, _ = self.sampler.sample(logits_NV, uniform)
            except NonFiniteLogits:  # of the head; the network itself can still generate
                return no_drafts(sequences)
            for row, symbol, q_V in zip(drafting, ids, q_NV, strict=True):
                drafts[active[row]].append(symbol)
                q[active[row]].append(q_V)
        return Drafts(
            counts,
            [symbol for ids in drafts for symbol in ids[1:]],
            np.stack([q_V for rows in q for q_V in rows]),
            self.layer,
            np.stack([x_D for rows in x for x_D in rows]),
        )

    def logits(self, x_ND: np.ndarray) -> np.ndarray:
        if self.normed:
            x_ND = torch.nn.functional.layer_norm(torch.from_numpy(x_ND), x_ND.shape[-1:], eps=EPSILON).numpy()
        # One product per row, so that a row does not depend in its last bits on the number of rows.
        return np.matmul(x_ND[:, None], self.weight_DV)[:, 0] + self.bias_V
