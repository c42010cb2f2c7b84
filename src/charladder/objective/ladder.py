"""The three losses of Al-Rfou et al. 2018: at every position, from every rung, of several characters ahead.

Rung l of n predicts the character k ahead through a classifier of its own; the term is called `rung{l}.target{k}`,
and the last rung's next character, through the network's own output layer, is `main`. All other classifiers are
heads: they live here, train with the network, and are left behind when it is deployed.

Shapes: B windows, T inputs, K targets ahead, D width, V symbols of the alphabet.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charladder.auxiliary import Objective, Report, Term, TermReport, presets, schedules, term_name
from charladder.auxiliary.cross_entropy import CrossEntropyOperations, linear_cross_entropy
from charladder.auxiliary.distributed import reduce_over_ranks
from charladder.auxiliary.weights import TermPlace, WeightFunction, make_weight_function
from charladder.errors import BadInput
from charladder.model import Dropout, ModelConfig, ModelOutput, Transformer
from charladder.objective.steps import fastest

# Names of our own for the weight of a rung; every preset of the library is one more.
RUNG_SCHEDULES: dict[str, Callable[..., float]] = presets.RUNGS | {
    "half": presets.al_rfou,
    "whole": lambda layer, layers, progress: presets.al_rfou(layer, layers, progress, span=1.0),
    "fade": lambda layer, layers, progress: (
        1.0 if layer == layers else schedules.linear(1.0, 0.0, until=0.5 * layer / layers)(progress)
    ),
    "never": presets.detr,
    "constant": presets.detr,
}
RungSchedule = Literal[
    "half", "whole", "fade", "never", "constant", "al_rfou", "layerskip", "layerskip_gradual",
    "layerskip_from_zero", "layerskip_gradual_from_zero", "ee_llm", "calm", "deed",
    "deeply_supervised", "inception", "pspnet", "inter_ctc", "detr", "early_anneal", "shallow_heavy",
]  # fmt: skip
TargetSchedule = Literal[
    "plain", "al_rfou", "multi_token", "multi_token_anneal", "forward_curriculum", "reverse_curriculum", "blockwise",
    "medusa", "deepseek",
]  # fmt: skip


MOST_TARGETS = 256
LOGITS = 64 << 20  # bytes of logits beyond which the losses of a rung are computed a few rows at a time


@dataclass(frozen=True)
class ObjectiveSettings:
    """Which losses contribute, and how much. The defaults are the paper's where it says.

    positions: `all`, or `last` (the ablation): then every term uses the last position of a window only.
    rungs: whether intermediate rungs predict.
    rung_schedule: when an intermediate rung l of n falls silent: `half`, at l/(2n) of training (the paper's rule);
    `whole`, at l/n (its other figure); `fade`, linearly down to nothing at l/(2n); `never`, or `constant`, which is
    what other papers call it: the weight stays; or a preset of other papers (charladder.auxiliary.presets).
    rung_weight: multiplies the weight of every intermediate rung.
    rung_reduction: `sum` of the intermediate rungs, or their `mean` (divided by how many are active). The paper does
    not say; the recipes t12 and t64 take the mean, by a trial in docs/diary.md.
    rung_input: what an intermediate classifier reads: the hidden state `normed` (without parameters), or `plain`.
    rung_heads: every rung has its `own` classifiers (the paper: untied), or reads through the last rung's final norm
    and classifiers, `shared` (tied).
    targets: how many characters ahead are predicted, each by an own classifier, at every predicting rung.
    target_schedule: `plain`, or a preset of other papers, which gives every target its weight.
    target_weight: with `plain`, the weight of the targets after the first. target_end: the progress at which they fall
    silent.
    """

    positions: Literal["all", "last"] = "all"
    rungs: bool = True
    rung_schedule: RungSchedule = "half"
    rung_weight: float = 1.0
    rung_reduction: Literal["sum", "mean"] = "sum"
    rung_input: Literal["normed", "plain"] = "normed"
    rung_heads: Literal["own", "shared"] = "own"
    targets: int = 2
    target_schedule: TargetSchedule = "plain"
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


@lru_cache(maxsize=16)
def weighers(settings: ObjectiveSettings, layers: int) -> dict[tuple[int, int], tuple[WeightFunction, WeightFunction]]:
    """The two weights of every term, of its rung and of its target, as functions of (progress, step)."""
    plain = {1: 1.0} | dict.fromkeys(range(2, settings.targets + 1), settings.target_weight)
    if settings.target_end < 1:
        ends = {
            k: schedules.until(settings.target_end, w) if settings.target_end > 0 else 0.0 for k, w in plain.items()
        }
        plain = ends | {1: 1.0}
    found = {}
    for rung in range(1, layers + 1):
        for k in range(1, settings.targets + 1):
            name, main = term_name(rung, k, layers), (rung, k) == (layers, 1)
            of_rung = RUNG_SCHEDULES[settings.rung_schedule] if settings.rungs else float(rung == layers)
            of_target = plain[k] if settings.target_schedule == "plain" else presets.TARGETS[settings.target_schedule]
            found[rung, k] = (
                make_weight_function(name, of_rung, TermPlace(rung, layers, main=rung == layers)),
                make_weight_function(name, of_target, TermPlace(rung, layers, k, settings.targets, main)),
            )
    return found


def term_weights(
    settings: ObjectiveSettings, layers: int, progress: float, step: int = 0
) -> dict[tuple[int, int], float]:
    """The weight of every term at `progress` (and `step`, which some presets go by), by (rung, target), silent ones 0.

    The main term, (layers, 1), has 1, unless a preset says otherwise. A rung's extra targets follow the rung.
    """
    weights = {}
    for (rung, k), (of_rung, of_target) in weighers(settings, layers).items():
        base = of_rung(progress, step) * (settings.rung_weight if rung < layers else 1.0)
        weights[rung, k] = base * of_target(progress, step)
    if settings.rung_reduction == "mean":
        predicting = {rung for (rung, _), weight in weights.items() if weight > 0 and rung < layers}
        active = max(1, len(predicting))
        weights = {(rung, k): w / active if rung < layers else w for (rung, k), w in weights.items()}
    return weights


def moves_with_steps(settings: ObjectiveSettings) -> bool:
    """Whether weights depend on the training step, and not on progress alone."""
    by_step = "layerskip", "layerskip_from_zero"
    return settings.rung_schedule in by_step or settings.target_schedule == "blockwise"


class LadderObjective(nn.Module):
    """The training loss of a Transformer, and the heads that it needs: one auxiliary.Objective with a term for each
    rung and target.

    Calling it with a model, windows (B, T + K) and the progress returns a Report: the total in nats, divided once by
    the number of predictions, and every active term's sum and count. A term of weight 0 runs nothing.
    """

    def __init__(self, settings: ObjectiveSettings, model: ModelConfig, alphabet: int, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.layers = settings, model.layers
        self.steps: Callable[[Tensor], CrossEntropyOperations] = (
            fastest  # who computes what lies between the classifiers' products
        )
        self.heads = nn.ModuleDict(
            {
                key(rung, k): nn.Linear(model.width, alphabet, bias=model.block == "paper")
                for rung in range(1, model.layers + 1)
                for k in range(1, settings.targets + 1)
                if has_head(settings, model.layers, rung, k)
            }
        )
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for head in self.heads.values():
                for parameter in head.parameters():
                    parameter.zero_()
                weight = head.get_parameter("weight")
                if not weight.is_meta:  # as in model/transformer.py
                    weight.normal_(0, 0.1 / math.sqrt(model.width), generator=generator)
        # In tuples, so that the heads are parts of this module alone, under the names that checkpoints have.
        self.inner, self.measured = (self.objective(),), (self.objective(measured=True),)

    @staticmethod
    def count_heads(settings: ObjectiveSettings, layers: int) -> int:
        """How many classifiers there are, without making them."""
        return sum(
            has_head(settings, layers, rung, k) for rung in range(1, layers + 1) for k in range(1, settings.targets + 1)
        )

    def objective(self, measured: bool = False) -> Objective:
        """One term for each rung and target; they are added up from the lowest rung to the last, target by target.

        measured: the terms read losses that `measure` has computed, and not hidden states.
        """
        terms = {}
        for rung in range(1, self.layers + 1):
            for k in range(1, self.settings.targets + 1):
                source = self.layers if self.settings.rung_heads == "shared" else rung
                # The network's own output layer has been at work already where it is the classifier.
                done = (source, k) == (self.layers, 1)
                head = self.heads[key(source, k)] if not done and key(source, k) in self.heads else None
                name = term_name(rung, k, self.layers)
                # Weights are given at each call: the mean over rungs depends on which of them are active.
                if measured and (rung, k) != (self.layers, 1):
                    terms[name] = Term(lambda loss: loss, select=(rung, k), target=None)
                else:
                    terms[name] = Term(
                        cross_entropy, select=(rung, "logits") if done else (rung, "hidden"), head=head, target=(k,)
                    )
        order = list(terms)
        return Objective(terms.pop("main"), terms, order=order, check=False, wrapped=True)

    def forward(
        self,
        model: Transformer,
        windows_BTK: Tensor,
        progress: float,
        examples: int | None = None,
        dropout: Dropout | None = None,
        step: int = 0,
        apart: bool = False,
    ) -> Report:
        """`examples` is how many windows this process has of the batch, over micro-batches; those given here when None.

        apart: the gradients of single terms will be asked for, and not only that of their total.
        """
        K = self.settings.targets
        B, T = windows_BTK.shape[0], windows_BTK.shape[1] - K
        keep = T if self.settings.positions == "all" else 1
        weights = term_weights(self.settings, self.layers, progress, step)
        active = {place: weight for place, weight in weights.items() if weight > 0}
        targets = {k: windows_BTK[:, T + k - keep : T + k] for k in range(1, K + 1)}
        at_once = len(active) * B * keep * logit_bytes(model) > LOGITS
        found: dict[int, Any] = {}

        def measure(rung: int, hidden_BTD: Tensor) -> None:
            # As soon as the rung has its state: then its backward pass also stands next to that of its block.
            found[rung] = self.measure(model, rung, hidden_BTD, targets, active, apart)

        rungs = {rung for rung, _ in active}
        watch = measure if at_once else None
        output = model(windows_BTK[:, :T], output_hidden=rungs, logits_to_keep=keep, dropout=dropout, on_hidden=watch)
        if self.layers in found:
            found[self.layers]["logits"] = output.logits_BTV
        read = found if at_once else self.read(model, output, active)
        names = {term_name(rung, k, self.layers): weight for (rung, k), weight in active.items()}
        report = (self.measured if at_once else self.inner)[0].from_output(
            read, targets, weights=names, counts=dict.fromkeys(names, (examples or B) * keep)
        )
        if "main" not in report.terms:  # a preset may give others their turn; the main loss is known all the same
            loss, count = cross_entropy(output.logits_BTV.detach(), windows_BTK[:, T + 1 - keep : T + 1])
            report.terms["main"] = reduce_over_ranks(TermReport(loss, count, 0.0))
        return report

    def read(self, model: Transformer, output: ModelOutput, active: dict[tuple[int, int], float]) -> dict[int, Any]:
        """What the terms of each rung read: its hidden state, and logits where the network makes them."""
        read = {rung: {"hidden": self.head_input(model, rung, hidden)} for rung, hidden in output.hidden.items()}
        for rung, parts in read.items():
            if rung == self.layers:
                parts["logits"] = output.logits_BTV
            elif self.settings.rung_heads == "shared" and (rung, 1) in active:
                parts["logits"] = model.output(parts["hidden"])
        return read

    def measure(
        self,
        model: Transformer,
        rung: int,
        hidden_BTD: Tensor,
        targets: dict[int, Tensor],
        active: dict[tuple[int, int], float],
        apart: bool,
    ) -> dict[Any, Any]:
        """The losses of a rung by target, (sum, count) each, but for the main one. Rung by rung, so that what the heads
        read, and all logits, never exist at once."""
        source = self.layers if self.settings.rung_heads == "shared" else rung
        ks = [k for k in targets if (rung, k) in active and (rung, k) != (self.layers, 1)]
        normed = self.normed(rung)
        found: dict[Any, Any] = {}
        for group in [[k] for k in ks] if apart else [ks] if ks else []:
            losses = linear_cross_entropy(
                hidden_BTD if normed else self.head_input(model, rung, hidden_BTD),
                [self.classifier(model, source, k) for k in group],
                [targets[k] for k in group],
                [active[rung, k] for k in group],
                normed,
                self.steps(hidden_BTD),
            )
            found |= {k: (loss, targets[k].numel()) for k, loss in zip(group, losses, strict=True)}
        return found

    def classifier(self, model: Transformer, rung: int, target: int) -> nn.Linear:
        return model.output if (rung, target) == (self.layers, 1) else cast(nn.Linear, self.heads[key(rung, target)])

    def head_input(self, model: Transformer, rung: int, hidden_BTD: Tensor) -> Tensor:
        """What the heads of a rung read: the last rung's state is normed by the network itself."""
        if rung < self.layers and self.settings.rung_heads == "shared":
            return model.norm(hidden_BTD)
        return F.layer_norm(hidden_BTD, hidden_BTD.shape[-1:]) if self.normed(rung) else hidden_BTD

    def normed(self, rung: int) -> bool:
        """Whether the heads of a rung read its state normed without parameters."""
        own = self.settings.rung_heads == "own" and self.settings.rung_input == "normed"
        return rung < self.layers and own


def has_head(settings: ObjectiveSettings, layers: int, rung: int, target: int) -> bool:
    """Whether a term has a classifier here: the main one has the network's, tied ones have the last rung's."""
    own = settings.rungs and settings.rung_weight > 0 and settings.rung_heads == "own"
    wanted = target == 1 or settings.target_weight > 0 or settings.target_schedule != "plain"
    return (rung == layers or own) and (rung, target) != (layers, 1) and wanted


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> tuple[Tensor, int]:
    """The sum in nats, in at least float32, and over how many predictions."""
    exact = logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))
    return F.cross_entropy(exact.flatten(0, 1), targets_BT.flatten(), reduction="sum"), targets_BT.numel()


def logit_bytes(model: Transformer) -> int:
    """Bytes of the logits of one position as a loss keeps them, in at least float32."""
    weight = model.output.weight
    return len(weight) * torch.promote_types(weight.dtype, torch.float32).itemsize


def key(rung: int, target: int) -> str:
    """The name of a head among modules, where a dot is not allowed."""
    return f"rung{rung}_target{target}"
