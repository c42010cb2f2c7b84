"""Bits per character of every layer and target.

Shapes: B windows, T inputs, D width, V symbols, F files.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charladder.auxiliary import term_name
from charladder.evaluation.sliding_window import texts_in_part, windows_to_score
from charladder.model import Transformer
from charladder.objective import LanguageModelObjective, has_head, has_term, is_chained
from charladder.objective.chained_targets import chained_logits

BATCH_CHARACTERS = 16384


@dataclass(frozen=True)
class HeadScore:
    """The score of one head. bits: in total, of all `characters` that it predicted `target` characters ahead."""

    term: str
    layer: int
    target: int
    bits: float
    characters: int

    @property
    def bits_per_character(self) -> float:
        return self.bits / self.characters


@torch.inference_mode()
def evaluate_layers(
    network: Transformer,
    objective: LanguageModelObjective,
    ids_N: np.ndarray,
    part: tuple[int, int],
    context: int,
    stride: int,
    ends_F: np.ndarray | None = None,
    on_progress: Callable[..., None] = lambda characters: None,
    on_prediction: Callable[[int, int, np.ndarray, np.ndarray], None] | None = None,
    refit_heads: Mapping[int, nn.Module] | None = None,
) -> list[HeadScore]:
    """Scores ids_N[part] with every head, from the lowest layer to the last, in the windows of `evaluate`.

    A head of target k predicts the k-th character after its inputs, so the characters that it scores begin k - 1 later
    and end with the part. A chained target also reads the characters between, as in training.

    on_progress: called with the number of characters read. on_prediction: called with layer, target, the positions of
    the predicted characters, and their negative log probabilities in nats. refit_heads: by layer, classifiers of the
    next character that were fitted after training; they read the layer's state, normalized without parameters, and are
    scored as `layer{r}.refit`.
    """
    layers, device = network.settings.layers, network.output.weight.device
    heads = {
        (layer, k): get_classifier(network, objective, layer, k)
        for layer in range(1, layers + 1)
        for k in range(1, objective.settings.targets + 1)
        if has_classifier(objective, layers, layer, k)
    }
    refit, chained = dict(refit_heads or {}), objective.chained_targets
    trained = [*heads, *((layers, k) for k in chained)]
    # (layer, 0) is the classifier that was fitted later
    names = {place: term_name(*place, layers) for place in trained} | {
        (layer, 0): f"layer{layer}.refit" for layer in refit
    }
    bits, counts, done = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0), 0

    def score(group: list[tuple[int, int, int]], last: int) -> None:
        nonlocal done
        start, begin, end = group[0]
        rows = np.array([window[0] for window in group])[:, None] + np.arange(end - 1 - start)
        kept = end - begin
        ahead_BT = rows[:, -kept:]  # the position of the last input of each prediction

        def add(place: tuple[int, int], logits_BTV: Tensor) -> None:
            layer, k = place[0], max(1, place[1])
            there_BT = ahead_BT + k < last
            if not there_BT.any():
                return
            targets_BT = torch.from_numpy(ids_N[np.minimum(ahead_BT + k, last - 1)].astype(np.int64)).to(device)
            nats = F.cross_entropy(logits_BTV.float().flatten(0, 1), targets_BT.flatten(), reduction="none").double()
            mask = torch.from_numpy(there_BT.ravel()).to(device)
            bits[place] += float(nats[mask].sum()) / math.log(2)
            counts[place] += int(there_BT.sum())
            if on_prediction is not None and place[1]:
                on_prediction(layer, k, (ahead_BT + k)[there_BT], nats[mask].cpu().numpy())

        def measure(layer: int, hidden_BTD: Tensor) -> None:
            if layer == layers and chained:  # they read the states of all positions
                following_BS = np.minimum(np.concatenate([rows, rows[:, -1:] + np.arange(1, chained[-1])], 1), last - 1)
                ids_BS = torch.from_numpy(ids_N[following_BS].astype(np.int64)).to(device)
                for k, state_BTD in objective.chained_states(network, hidden_BTD, ids_BS, chained[-1]):
                    add((layer, k), chained_logits(network, state_BTD[:, -kept:]))
            hidden_BTD = hidden_BTD[:, -kept:]
            x_BTD = objective.head_input(network, layer, hidden_BTD)
            for (own, k), head in heads.items():
                if own == layer:
                    add((own, k), head(x_BTD))
            if layer in refit:
                add((layer, 0), refit[layer](F.layer_norm(hidden_BTD, hidden_BTD.shape[-1:])))

        tokens_BT, keep = torch.from_numpy(ids_N[rows].astype(np.int64)).to(device), None if chained else kept
        network(tokens_BT, output_hidden={layer for layer, _ in names}, logits_to_keep=keep, on_hidden=measure)
        done += kept * len(group)
        on_progress(done)

    for first, begin, end in texts_in_part(part, ends_F):
        group: list[tuple[int, int, int]] = []
        for window in windows_to_score((begin, end), context, stride, first):
            alike = group and all(window[2] - window[i] == group[0][2] - group[0][i] for i in (0, 1))
            if group and (not alike or len(group) * (window[2] - window[0]) >= BATCH_CHARACTERS):
                score(group, end)
                group = []
            group.append(window)
        if group:
            score(group, end)
    return [
        HeadScore(names[layer, k], layer, max(1, k), bits[layer, k], counts[layer, k])
        for layer, k in sorted(names, key=lambda place: (place[0], place[1] or math.inf))
        if counts[layer, k]
    ]


def has_classifier(objective: LanguageModelObjective, layers: int, layer: int, target: int) -> bool:
    """Whether a term has a classifier: its own head, the network's output layer, or a shared head. Chained targets have
    modules instead."""
    settings = objective.settings
    if not has_term(settings, layers, layer, target) or is_chained(settings, layers, layer, target):
        return False
    if (layer, target) == (layers, 1):
        return True
    if settings.intermediate_heads == "shared" and settings.intermediate and settings.intermediate_weight > 0:
        return target == 1 or has_head(settings, layers, layers, target)
    return has_head(settings, layers, layer, target)


def get_classifier(network: Transformer, objective: LanguageModelObjective, layer: int, target: int) -> nn.Linear:
    layers = network.settings.layers
    return objective.classifier(network, layers if objective.settings.intermediate_heads == "shared" else layer, target)
