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
from charladder.evaluation.sliding_window import Window, batch_windows, texts_in_part, windows_to_score
from charladder.model import Transformer
from charladder.objective import LanguageModelObjective, has_head, has_term, is_chained
from charladder.objective.chained_targets import chained_logits

BATCH_CHARACTERS = 16384
_REFIT = 0  # in keys (layer, target): the classifier that was fitted after training


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
    next character that were fitted after training. Their input is the hidden state of the layer, normalized without
    parameters, and their scores have the term `layer{r}.refit`.
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
    names = {key: term_name(*key, layers) for key in trained} | {
        (layer, _REFIT): f"layer{layer}.refit" for layer in refit
    }
    bits, counts, done = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0), 0

    def score(batch: list[Window], text_end: int) -> None:
        nonlocal done
        inputs, count = batch[0].shape
        rows_BT = np.array([window.start for window in batch])[:, None] + np.arange(inputs)
        last_input_BT = rows_BT[:, -count:]  # the position of the last input of each prediction

        def add(key: tuple[int, int], logits_BTV: Tensor) -> None:
            layer, k = key[0], max(1, key[1])
            target_BT = last_input_BT + k
            is_in_part_BT = target_BT < text_end
            if not is_in_part_BT.any():
                return
            ids_BT = torch.from_numpy(ids_N[np.minimum(target_BT, text_end - 1)].astype(np.int64)).to(device)
            nats = F.cross_entropy(logits_BTV.float().flatten(0, 1), ids_BT.flatten(), reduction="none").double()
            mask = torch.from_numpy(is_in_part_BT.ravel()).to(device)
            bits[key] += float(nats[mask].sum()) / math.log(2)
            counts[key] += int(is_in_part_BT.sum())
            if on_prediction is not None and key[1] != _REFIT:
                on_prediction(layer, k, target_BT[is_in_part_BT], nats[mask].cpu().numpy())

        def measure(layer: int, hidden_BTD: Tensor) -> None:
            if layer == layers and chained:  # they read the states of all positions
                all_BS = np.concatenate([rows_BT, rows_BT[:, -1:] + np.arange(1, chained[-1])], 1)
                following_BS = np.minimum(all_BS, text_end - 1)
                ids_BS = torch.from_numpy(ids_N[following_BS].astype(np.int64)).to(device)
                for k, state_BTD in objective.chained_states(network, hidden_BTD, ids_BS, chained[-1]):
                    add((layer, k), chained_logits(network, state_BTD[:, -count:]))
            hidden_BTD = hidden_BTD[:, -count:]
            x_BTD = objective.head_input(network, layer, hidden_BTD)
            for (head_layer, k), head in heads.items():
                if head_layer == layer:
                    add((layer, k), head(x_BTD))
            if layer in refit:
                add((layer, _REFIT), refit[layer](F.layer_norm(hidden_BTD, hidden_BTD.shape[-1:])))

        tokens_BT, keep = torch.from_numpy(ids_N[rows_BT].astype(np.int64)).to(device), None if chained else count
        network(tokens_BT, output_hidden={layer for layer, _ in names}, logits_to_keep=keep, on_hidden=measure)
        done += count * len(batch)
        on_progress(done)

    for first, begin, end in texts_in_part(part, ends_F):
        for batch in batch_windows(windows_to_score((begin, end), context, stride, first), BATCH_CHARACTERS):
            score(batch, end)
    return [
        HeadScore(names[layer, k], layer, max(1, k), bits[layer, k], counts[layer, k])
        for layer, k in sorted(names, key=lambda key: (key[0], key[1] or math.inf))  # _REFIT last
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
