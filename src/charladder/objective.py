"""The three losses of Al-Rfou et al. 2018: at every position, from every rung, of several characters ahead.

Rung l of n predicts the character k ahead through a classifier of its own; the term is called `rung{l}.target{k}`,
and the last rung's next character, through the network's own output layer, is `main`. All other classifiers are
heads: they live here, train with the network, and are left behind when it is deployed.

Shapes: B windows, T inputs, K targets ahead, D width, V symbols of the alphabet.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charladder.auxiliary import Report, TermReport, schedules
from charladder.errors import BadInput
from charladder.model import Dropout, ModelSettings, Transformer

# Weight of an intermediate rung from (rung, rungs, progress), before `rung_weight`.
RUNG_SCHEDULES: dict[str, Callable[[int, int, float], float]] = {
    "half": lambda rung, rungs, progress: schedules.al_rfou(rung, rungs, progress, 0.5),
    "whole": lambda rung, rungs, progress: schedules.al_rfou(rung, rungs, progress, 1.0),
    "fade": lambda rung, rungs, progress: schedules.linear_fade(0.5 * rung / rungs, progress),
    "never": lambda rung, rungs, progress: 1.0,
    "constant": lambda rung, rungs, progress: 1.0,
}


MOST_TARGETS = 256


@dataclass(frozen=True)
class ObjectiveSettings:
    """Which losses contribute, and how much. The defaults are the paper's where it says.

    positions: `all`, or `last` (the ablation): then every term uses the last position of a window only.
    rungs: whether intermediate rungs predict.
    rung_schedule: when an intermediate rung l of n falls silent: `half`, at l/(2n) of training (the paper's rule);
    `whole`, at l/n (its other figure); `fade`, linearly down to nothing at l/(2n); `never`, or `constant`, which is
    what other papers call it: the weight stays.
    rung_weight: multiplies the weight of every intermediate rung.
    rung_reduction: `sum` of the intermediate rungs, or their `mean` (divided by how many are active). The paper does
    not say; the recipes t12 and t64 take the mean, by a trial in docs/diary.md.
    rung_input: what an intermediate classifier reads: the hidden state `normed` (without parameters), or `plain`.
    rung_heads: every rung has its `own` classifiers (the paper: untied), or reads through the last rung's final norm
    and classifiers, `shared` (tied).
    targets: how many characters ahead are predicted, each by an own classifier, at every predicting rung.
    target_weight: the weight of the targets after the first. target_end: the progress at which they fall silent.
    """

    positions: Literal["all", "last"] = "all"
    rungs: bool = True
    rung_schedule: Literal["half", "whole", "fade", "never", "constant"] = "half"
    rung_weight: float = 1.0
    rung_reduction: Literal["sum", "mean"] = "sum"
    rung_input: Literal["normed", "plain"] = "normed"
    rung_heads: Literal["own", "shared"] = "own"
    targets: int = 2
    target_weight: float = 0.5
    target_end: float = 1.0

    def __post_init__(self) -> None:
        if self.targets < 1:
            raise BadInput(f"objective.targets is {self.targets}; it must be at least 1, the next character")
        if self.targets > MOST_TARGETS:
            raise BadInput(f"objective.targets is {self.targets}; it must be at most {MOST_TARGETS}")
        for name in ("rung_weight", "target_weight", "target_end"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise BadInput(f"objective.{name} is {value}; it must be a number of at least 0")


def term_weights(settings: ObjectiveSettings, layers: int, progress: float) -> dict[tuple[int, int], float]:
    """The weight of every term at `progress`, by (rung, target), silent ones included at 0.

    The main term, (layers, 1), is always 1. A rung's extra targets follow the rung.
    """
    weights = {}
    for rung in range(1, layers + 1):
        if rung == layers:
            base = 1.0
        else:
            base = (
                settings.rungs * settings.rung_weight * RUNG_SCHEDULES[settings.rung_schedule](rung, layers, progress)
            )
        for k in range(1, settings.targets + 1):
            over = k > 1 and progress >= settings.target_end and settings.target_end < 1
            weights[rung, k] = 0.0 if over else base * schedules.al_rfou_target(k, settings.target_weight)
    if settings.rung_reduction == "mean":
        active = max(1, sum(weights[rung, 1] > 0 for rung in range(1, layers)))
        weights = {(rung, k): w / active if rung < layers else w for (rung, k), w in weights.items()}
    return weights


def term_name(rung: int, target: int, layers: int) -> str:
    return "main" if (rung, target) == (layers, 1) else f"rung{rung}.target{target}"


class LadderObjective(nn.Module):
    """The training loss of a Transformer, and the heads that it needs.

    Calling it with a model, windows (B, T + K) and the progress returns a Report: the total in nats, divided once by
    the number of predictions, and every active term's sum and count. A term of weight 0 runs nothing.
    """

    def __init__(self, settings: ObjectiveSettings, model: ModelSettings, alphabet: int, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.layers = settings, model.layers
        heads = {}
        for rung in range(1, model.layers + 1):
            for k in range(1, settings.targets + 1):
                own = settings.rungs and settings.rung_weight > 0 and settings.rung_heads == "own"
                if (
                    (rung == model.layers or own)
                    and (rung, k) != (model.layers, 1)
                    and (k == 1 or settings.target_weight > 0)
                ):
                    heads[key(rung, k)] = nn.Linear(model.width, alphabet, bias=model.block == "paper")
        self.heads = nn.ModuleDict(heads)
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for head in self.heads.values():
                for parameter in head.parameters():
                    parameter.zero_()
                head.get_parameter("weight").normal_(0, 0.1 / math.sqrt(model.width), generator=generator)

    def forward(
        self,
        model: Transformer,
        windows_BTK: Tensor,
        progress: float,
        examples: int | None = None,
        dropout: Dropout | None = None,
    ) -> Report:
        """`examples` is how many windows the whole batch has, over micro-batches; those given here when None."""
        K = self.settings.targets
        B, T = windows_BTK.shape[0], windows_BTK.shape[1] - K
        keep = T if self.settings.positions == "all" else 1
        weights = term_weights(self.settings, self.layers, progress)
        active = {place: weight for place, weight in weights.items() if weight > 0}
        output = model(windows_BTK[:, :T], rungs={rung for rung, _ in active}, keep=keep, dropout=dropout)
        inputs = {rung: self.head_input(model, rung, hidden) for rung, hidden in output.rungs.items()}
        total, terms = torch.zeros((), device=windows_BTK.device), {}
        for (rung, k), weight in active.items():
            main = (rung, k) == (self.layers, 1)
            logits_BTV = output.logits_BTV if main else self.classifier(model, rung, k)(inputs[rung])
            targets_BT = windows_BTK[:, T + k - keep : T + k]
            exact = logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))
            loss = F.cross_entropy(exact.flatten(0, 1), targets_BT.flatten(), reduction="sum")
            total = total + loss * (weight / ((examples or B) * keep))
            terms[term_name(rung, k, self.layers)] = TermReport(loss.detach(), B * keep, weight)
        return Report(total, terms)

    def head_input(self, model: Transformer, rung: int, hidden_BTD: Tensor) -> Tensor:
        """What the heads of a rung read: the last rung's state is normed by the network itself."""
        if rung < self.layers and self.settings.rung_heads == "shared":
            return model.norm(hidden_BTD)
        if rung == self.layers or self.settings.rung_input == "plain":
            return hidden_BTD
        return F.layer_norm(hidden_BTD, hidden_BTD.shape[-1:])

    def classifier(self, model: Transformer, rung: int, target: int) -> nn.Module:
        """The layer that predicts `target` ahead from a rung; when shared, the one of the last rung."""
        rung = self.layers if self.settings.rung_heads == "shared" else rung
        return model.output if (rung, target) == (self.layers, 1) else self.heads[key(rung, target)]


def key(rung: int, target: int) -> str:
    """The name of a head among modules, where a dot is not allowed."""
    return f"rung{rung}_target{target}"
