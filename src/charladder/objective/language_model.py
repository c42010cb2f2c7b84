"""The three losses of Al-Rfou et al. 2018: at every position, from every layer, of several characters ahead.

Layer l of n predicts the character k ahead through a classifier of its own; the term is called `layer{l}.target{k}`,
and the last layer's next character, through the network's own output layer, is `main`. All other classifiers are
heads: they are modules of the objective, are trained with the network, and are not deployed with it. With chained
targets, further targets of the last layer have modules instead of classifiers (chained_targets.py).

Shapes: B windows, T inputs, K targets ahead, D width, V symbols of the alphabet.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charladder.auxiliary import Objective, Report, Term, TermReport, term_name
from charladder.auxiliary.cross_entropy import CrossEntropyOperations, linear_cross_entropy
from charladder.auxiliary.distributed import reduce_over_ranks
from charladder.model import Dropout, ModelConfig, ModelOutput, Transformer
from charladder.objective.chained_targets import ChainedModule, chained_logits, chained_states
from charladder.objective.config import ObjectiveConfig, has_head, has_term, is_chained, term_weights
from charladder.objective.cross_entropy_kernels import choose_operations

MAX_LOGIT_BYTES = 64 << 20  # bytes of logits beyond which the losses of a layer are computed a few rows at a time


class LanguageModelObjective(nn.Module):
    """The training loss of a Transformer, and its heads: an auxiliary.Objective with a term for each layer and target.

    Calling it with a model, windows (B, T + K) and the progress returns a Report: the total in nats, divided once by
    the number of predictions, and the sum and count of every active term. A term of weight 0 is not computed.
    """

    def __init__(self, settings: ObjectiveConfig, model: ModelConfig, alphabet: int, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.layers = settings, model.layers
        self._choose_operations: Callable[[Tensor], CrossEntropyOperations] = choose_operations
        self.heads = nn.ModuleDict(
            {
                head_key(layer, k): self._make_head(model, alphabet, layer, k, seed)
                for layer in range(1, model.layers + 1)
                for k in range(1, settings.targets + 1)
                if has_head(settings, model.layers, layer, k)
            }
        )
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for head in self.heads.values():
                if isinstance(head, ChainedModule):
                    continue
                for parameter in head.parameters():
                    parameter.zero_()
                weight = head.get_parameter("weight")
                if not weight.is_meta:  # as in model/transformer.py
                    weight.normal_(0, 0.1 / math.sqrt(model.width), generator=generator)
        # In tuples, so that the heads are registered once, under the names that checkpoints have.
        self._objective, self._measured_objective = (self._build_objective(),), (self._build_objective(measured=True),)

    def _make_head(self, model: ModelConfig, alphabet: int, layer: int, target: int, seed: int) -> nn.Module:
        """A classifier, whose weights are set later, or an initialised chained module."""
        if is_chained(self.settings, self.layers, layer, target):
            return ChainedModule(model, seed + target)
        return nn.Linear(model.width, alphabet, bias=model.block == "paper")

    @staticmethod
    def count_heads(settings: ObjectiveConfig, layers: int) -> int:
        """The number of heads, without creating them."""
        return sum(
            has_head(settings, layers, layer, k)
            for layer in range(1, layers + 1)
            for k in range(1, settings.targets + 1)
        )

    def _build_objective(self, measured: bool = False) -> Objective:
        """An objective with one term for each layer and target, summed from the lowest layer to the last.

        measured: the terms read losses that `_compute_layer_losses` has computed, not hidden states.
        """
        terms = {}
        for layer in range(1, self.layers + 1):
            for k in range(1, self.settings.targets + 1):
                if has_term(self.settings, self.layers, layer, k):
                    # Weights are given at each call: the mean over layers depends on which of them are active.
                    if measured and (layer, k) != (self.layers, 1):
                        term = Term(lambda loss: loss, select=(layer, k), target=None)
                    else:
                        term = self._make_term(layer, k)
                    terms[term_name(layer, k, self.layers)] = term
        order = list(terms)
        return Objective(terms.pop("main"), terms, order=order, check=False, wrapped=True)

    def _make_term(self, layer: int, target: int) -> Term:
        """A term that reads logits, if the network's own output layer computes them, or else a hidden state."""
        source = self.layers if self.settings.intermediate_heads == "shared" else layer
        if is_chained(self.settings, self.layers, layer, target):
            return Term(_cross_entropy, select=(layer, f"target{target}"), target=(target,))
        if (source, target) == (self.layers, 1):
            return Term(_cross_entropy, select=(layer, "logits"), target=(target,))
        exists = has_head(self.settings, self.layers, source, target)  # not if its weight is always 0
        head = self.heads[head_key(source, target)] if exists else None
        return Term(_cross_entropy, select=(layer, "hidden"), head=head, target=(target,))

    def use_operations(self, operations: CrossEntropyOperations) -> None:
        """Uses these operations for the cross-entropies, instead of choosing them for each input."""
        self._choose_operations = lambda hidden: operations

    def forward(
        self,
        model: Transformer,
        windows_BTK: Tensor,
        progress: float,
        examples: int | None = None,
        dropout: Dropout | None = None,
        step: int = 0,
        separate_gradients: bool = False,
    ) -> Report:
        """examples: the number of windows of the batch in this process, over all micro-batches; None: those given here.

        separate_gradients: the caller needs the gradients of single terms, not only that of the total.
        """
        K = self.settings.targets
        B, T = windows_BTK.shape[0], windows_BTK.shape[1] - K
        keep = T if self.settings.positions == "all" else 1
        weights = term_weights(self.settings, self.layers, progress, step)
        active = {place: weight for place, weight in weights.items() if weight > 0}
        targets = {k: windows_BTK[:, T + k - keep : T + k] for k in range(1, K + 1)}
        at_once = len(active) * B * keep * _logit_bytes_per_position(model) > MAX_LOGIT_BYTES
        found: dict[int, Any] = {}

        def chained(final_BTD: Tensor) -> Iterator[tuple[int, Tensor]]:
            last = max((k for k in self.chained_targets if (self.layers, k) in active), default=1)
            return self.chained_states(model, final_BTD, windows_BTK, last, dropout)

        def measure(layer: int, hidden_BTD: Tensor) -> None:
            # Called as soon as the layer has its state, so that its backward pass follows that of its block.
            found[layer] = self._compute_layer_losses(model, layer, hidden_BTD, targets, active, separate_gradients)
            if layer == self.layers:
                found[layer] |= self._compute_chained_losses(model, chained(hidden_BTD), targets, active)

        layers = {layer for layer, _ in active}
        watch = measure if at_once else None
        output = model(windows_BTK[:, :T], output_hidden=layers, logits_to_keep=keep, dropout=dropout, on_hidden=watch)
        if self.layers in found:
            found[self.layers]["logits"] = output.logits_BTV
        read = found if at_once else self._read_outputs(model, output, active)
        if not at_once and self.layers in read:
            states = chained(output.hidden[self.layers])
            read[self.layers] |= {f"target{k}": chained_logits(model, state_BTD) for k, state_BTD in states}
        names = {term_name(layer, k, self.layers): weight for (layer, k), weight in active.items()}
        report = (self._measured_objective if at_once else self._objective)[0].from_output(
            read, targets, weights=names, counts=dict.fromkeys(names, (examples or B) * keep)
        )
        if "main" not in report.terms:  # with a preset that skips the main term, its loss is reported anyway
            loss, count = _cross_entropy(output.logits_BTV.detach(), windows_BTK[:, T + 1 - keep : T + 1])
            report.terms["main"] = reduce_over_ranks(TermReport(loss, count, 0.0))
        return report

    def _read_outputs(
        self, model: Transformer, output: ModelOutput, active: dict[tuple[int, int], float]
    ) -> dict[int, Any]:
        """The inputs of the terms of each layer: its hidden state, and its logits if the network computes them."""
        read = {layer: {"hidden": self.head_input(model, layer, hidden)} for layer, hidden in output.hidden.items()}
        for layer, parts in read.items():
            if layer == self.layers:
                parts["logits"] = output.logits_BTV
            elif self.settings.intermediate_heads == "shared" and (layer, 1) in active:
                parts["logits"] = model.output(parts["hidden"])
        return read

    def _compute_layer_losses(
        self,
        model: Transformer,
        layer: int,
        hidden_BTD: Tensor,
        targets: dict[int, Tensor],
        active: dict[tuple[int, int], float],
        separate_gradients: bool,
    ) -> dict[Any, Any]:
        """The losses of a layer by target, (sum, count) each, without the main one. Called layer by layer, so that the
        inputs of the heads and the logits of all layers are never in memory at the same time."""
        source = self.layers if self.settings.intermediate_heads == "shared" else layer
        ks = [k for k in targets if (layer, k) in active and (layer, k) != (self.layers, 1)]
        ks = [k for k in ks if not is_chained(self.settings, self.layers, layer, k)]
        normed = self.normalizes_input(layer)
        found: dict[Any, Any] = {}
        for group in [[k] for k in ks] if separate_gradients else [ks] if ks else []:
            losses = linear_cross_entropy(
                hidden_BTD if normed else self.head_input(model, layer, hidden_BTD),
                [self.classifier(model, source, k) for k in group],
                [targets[k] for k in group],
                [active[layer, k] for k in group],
                normed,
                self._choose_operations(hidden_BTD),
            )
            found |= {k: (loss, targets[k].numel()) for k, loss in zip(group, losses, strict=True)}
        return found

    def _compute_chained_losses(
        self,
        model: Transformer,
        states: Iterator[tuple[int, Tensor]],
        targets: dict[int, Tensor],
        active: dict[tuple[int, int], float],
    ) -> dict[Any, Any]:
        """The losses of chained targets, as in `_compute_layer_losses`."""
        found: dict[Any, Any] = {}
        for k, state_BTD in states:
            if weight := active.get((self.layers, k)):
                normed_BTD = model.norm(state_BTD)
                operations = self._choose_operations(normed_BTD)
                (loss,) = linear_cross_entropy(
                    normed_BTD, [model.output], [targets[k]], [weight], operations=operations
                )
                found[k] = (loss, targets[k].numel())
        return found

    def chained_states(
        self, model: Transformer, final_BTD: Tensor, ids_BS: Tensor, last: int, dropout: Dropout | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Target and state of the chained targets 2 to `last`; see `chained_targets.chained_states`."""
        modules = {k: cast(ChainedModule, self.heads[head_key(self.layers, k)]) for k in range(2, last + 1)}
        return chained_states(model, modules, final_BTD, ids_BS, last, dropout)

    @property
    def chained_targets(self) -> list[int]:
        """The targets that chained modules of the last layer predict, from 2 on; empty if there are none."""
        settings, last = self.settings, self.layers
        return [
            k
            for k in range(2, settings.targets + 1)
            if is_chained(settings, last, last, k) and has_head(settings, last, last, k)
        ]

    def classifier(self, model: Transformer, layer: int, target: int) -> nn.Linear:
        return (
            model.output
            if (layer, target) == (self.layers, 1)
            else cast(nn.Linear, self.heads[head_key(layer, target)])
        )

    def head_input(self, model: Transformer, layer: int, hidden_BTD: Tensor) -> Tensor:
        """The input of the heads of a layer. The network itself normalizes the state of the last layer."""
        if layer < self.layers and self.settings.intermediate_heads == "shared":
            return model.norm(hidden_BTD)
        return F.layer_norm(hidden_BTD, hidden_BTD.shape[-1:]) if self.normalizes_input(layer) else hidden_BTD

    def normalizes_input(self, layer: int) -> bool:
        """Whether the heads of a layer read its state normalized without parameters."""
        own = self.settings.intermediate_heads == "own" and self.settings.intermediate_input == "normed"
        return layer < self.layers and own


def _cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> tuple[Tensor, int]:
    """The sum in nats, in at least float32, and the number of predictions."""
    exact = logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))
    return F.cross_entropy(exact.flatten(0, 1), targets_BT.flatten(), reduction="sum"), targets_BT.numel()


def _logit_bytes_per_position(model: Transformer) -> int:
    """The bytes of the logits of one position, in at least float32."""
    weight = model.output.weight
    return len(weight) * torch.promote_types(weight.dtype, torch.float32).itemsize


def head_key(layer: int, target: int) -> str:
    """The name of a head in a ModuleDict, where a dot is not allowed."""
    return f"layer{layer}_target{target}"
