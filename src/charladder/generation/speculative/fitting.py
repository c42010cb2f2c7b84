"""Fitting drafting heads to a trained network, which stays as it is.

They learn to say what the network says, at the same place, and not what the text says: the cross-entropy with the
network's own distribution. The shorter the way to that, the more drafts stand.

Shapes: B windows, T characters read, K further characters, D width, V symbols.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charladder.errors import UserError
from charladder.generation.speculative.drafting_heads import DraftingHeads
from charladder.model import Transformer
from charladder.text import Windows


@dataclass(frozen=True)
class FitConfig:
    """steps or seconds: the budget, the other 0. batch: windows a step. ahead: characters that the chain drafts."""

    steps: int = 0
    seconds: float = 0.0
    batch: int = 8
    ahead: int = 5
    rate: float = 3e-3

    def __post_init__(self) -> None:
        if (self.steps > 0) == (self.seconds > 0):
            raise UserError("refit needs one budget above 0, in steps or in minutes")
        if not 1 <= self.batch <= 1 << 16:
            raise UserError(field="batch", value=self.batch, rule="it must be between 1 and 65,536 windows")
        if not 0 < self.rate < 1:
            raise UserError(field="rate", value=self.rate, rule="it must be above 0 and below 1")
        if not 1 <= self.ahead <= 64:
            raise UserError(field="ahead", value=self.ahead, rule="it must be between 1 and 64 characters")


@dataclass(frozen=True)
class FitProgress:
    """After a step: how far, and the bits per character of each head on this step's windows, by name."""

    step: int
    progress: float
    characters: int
    seconds: float
    bits: dict[str, float]


def fit(
    network: Transformer, heads: DraftingHeads, windows: Windows, settings: FitConfig, autocast_dtype: torch.dtype
) -> Iterator[FitProgress]:
    """Fits `heads` step by step, by AdamW with a rate that rises and falls to 0; yields after each. windows: T inputs
    and any further characters, which are not read. The
    network is left in evaluation mode."""
    network.eval()
    heads.train()
    device = network.output.weight.device
    optimizer = torch.optim.AdamW(heads.parameters(), lr=settings.rate, betas=(0.9, 0.95), weight_decay=0.0)
    began, step, progress, characters = time.perf_counter(), 0, 0.0, 0
    while progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * min(1.0, (step + 1) / 20, max(0.02, 1.1 * (1 - progress)))
        ids, _ = windows.take(settings.batch)
        ids_BT = torch.from_numpy(ids).to(device)
        with torch.autocast(device.type, autocast_dtype, enabled=autocast_dtype != torch.float32):
            losses = head_losses(network, heads, ids_BT, settings.ahead)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(heads.parameters(), 1.0)
        optimizer.step()
        step += 1
        characters += settings.batch * network.settings.context
        seconds = time.perf_counter() - began
        progress = step / settings.steps if settings.steps else seconds / settings.seconds
        bits = {name: float(loss.detach()) / math.log(2) for name, loss in losses.items()}
        if not all(map(math.isfinite, bits.values())):
            raise UserError(f"fitting went wrong at step {step}: a loss is no number; is the network broken?")
        yield FitProgress(step, min(1.0, progress), characters, seconds, bits)
    heads.eval()


def head_losses(network: Transformer, heads: DraftingHeads, ids_BT: Tensor, ahead: int) -> dict[str, Tensor]:
    """The cross-entropy of each head with what the network says at the same place, in nats, by name."""
    last = network.settings.layers
    wanted = {last, *map(int, heads.early_exit)}
    with torch.no_grad():
        said = network(ids_BT[:, : network.settings.context], output_hidden=wanted)
        p_BTV, final_BTD = said.logits_BTV.float().softmax(-1), said.hidden[last].float()
    T = p_BTV.shape[1]
    losses = {}
    state_BTD = final_BTD
    for step in range(1, min(ahead, T - 1) + 1):
        # From what was read up to t, with character t + step put in: what comes after it.
        state_BTD, logits_BTV = heads.chain(state_BTD[:, : T - step], ids_BT[:, step:T])
        losses[f"chain{step}"] = soft_cross_entropy(logits_BTV, p_BTV[:, step:])
    for key, head in heads.targets.items():
        back = int(key) - 1
        if back < T:
            losses[f"target{key}"] = soft_cross_entropy(head(final_BTD[:, : T - back]), p_BTV[:, back:])
    for key, head in heads.early_exit.items():
        x_BTD = said.hidden[int(key)].float()
        losses[f"layer{key}"] = soft_cross_entropy(head(F.layer_norm(x_BTD, x_BTD.shape[-1:])), p_BTV)
    return losses


def soft_cross_entropy(logits_BTV: Tensor, p_BTV: Tensor) -> Tensor:
    return -(p_BTV * logits_BTV.float().log_softmax(-1)).sum(-1).mean()
