"""The predictions of every layer and target at one position of a text.

Shapes: T inputs, D width, V symbols.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from charladder.auxiliary import term_name
from charladder.evaluation.layers import get_classifier, has_classifier
from charladder.model import Transformer
from charladder.objective import LanguageModelObjective
from charladder.objective.chained_targets import chained_logits


@dataclass(frozen=True)
class HeadPrediction:
    """The prediction of one head for the character `target` after the last input. p_V: probabilities in float64."""

    term: str
    layer: int
    target: int
    p_V: np.ndarray

    def top_ids(self, count: int) -> list[int]:
        """The ids of the `count` most probable symbols in descending order; of equal ones, the lower id first."""
        return np.argsort(-self.p_V, kind="stable")[:count].tolist()

    def rank(self, symbol: int) -> int:
        """The number of symbols with a higher probability than this one."""
        return int((self.p_V > self.p_V[symbol]).sum())


def window_start(position: int, context: int, stride: int) -> int:
    """The first scored position of the window in which an evaluation of the text scores `position`."""
    beyond = position - (context + 1)
    return 1 if beyond < 0 else context + 1 + beyond // stride * stride


@torch.inference_mode()
def predictions_at(
    network: Transformer,
    objective: LanguageModelObjective | None,
    ids_N: np.ndarray,
    position: int,
    context: int,
    stride: int,
) -> list[HeadPrediction]:
    """The prediction of each head for `position` (1 to N), from the lowest layer to the last and by target.

    The inputs are those of an evaluation at this stride. Without an objective, only the network's own output predicts.
    A chained target also reads the characters of the text before the one that it predicts, and is left out where the
    text ends before them.
    Raises ValueError for a position outside the text, or without a character before it.
    """
    if not 1 <= position <= len(ids_N):
        raise ValueError(f"position {position} has no character before it, or is past the end of the text")
    begin = window_start(position, context, stride)
    start = 0 if begin == 1 else begin + stride - 1 - context
    device, layers = network.output.weight.device, network.settings.layers
    tokens_BT = torch.from_numpy(ids_N[start:position].astype(np.int64))[None].to(device)
    targets = 1 if objective is None else objective.settings.targets
    keys = [
        (layer, k)
        for layer in range(1, layers + 1)
        for k in range(1, targets + 1)
        if (layer, k) == (layers, 1) or (objective is not None and has_classifier(objective, layers, layer, k))
    ]
    # Target k reads the characters up to `position` + k - 2.
    chained = [] if objective is None else [k for k in objective.chained_targets if position + k - 1 <= len(ids_N)]
    predictions: list[HeadPrediction] = []

    def predict(layer: int, hidden_BTD: Tensor) -> None:
        x_BTD = hidden_BTD if objective is None else objective.head_input(network, layer, hidden_BTD)
        for head_layer, k in keys:
            if head_layer == layer:
                head = network.output if objective is None else get_classifier(network, objective, layer, k)
                p_V = head(x_BTD)[0, -1].double().softmax(-1).cpu().numpy()
                predictions.append(HeadPrediction(term_name(layer, k, layers), layer, k, p_V))
        if objective is not None and chained and layer == layers:
            ids_BS = torch.from_numpy(ids_N[start : position + chained[-1] - 1].astype(np.int64))[None].to(device)
            for k, state_BTD in objective.chained_states(network, hidden_BTD, ids_BS, chained[-1]):
                p_V = chained_logits(network, state_BTD)[0, -1].double().softmax(-1).cpu().numpy()
                predictions.append(HeadPrediction(term_name(layer, k, layers), layer, k, p_V))

    keep = None if chained else 1  # chained modules read the states of all positions
    network(tokens_BT, output_hidden={layer for layer, _ in keys}, logits_to_keep=keep, on_hidden=predict)
    return predictions
