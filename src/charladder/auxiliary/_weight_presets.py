"""Weights from the literature, by name: for intermediate layers, and for targets several characters ahead.

Each is a pure function: of the layer l of `layers` (1-based; the last one has the main loss), or of the `offset` k of
`offsets` targets ahead (1 is the next), and of progress t in [0, 1]; a curriculum that changes every step is one of the
step too. INTERMEDIATE and TARGETS list them by name. What else a paper does (shared heads, layer dropout, chained
modules) is not implemented here; docstrings name it.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from charladder.auxiliary import schedules


@dataclass(frozen=True)
class Constant:
    """The same `weight` for all terms at all times; the main term has 1. paper: where the weight is from."""

    weight: float
    paper: str

    def __call__(self, main: bool) -> float:
        return 1.0 if main else self.weight


def al_rfou(layer: int, layers: int, progress: float, span: float = 0.5) -> float:
    """1 while t < span * l / n, then 0; the last layer always 1. Untied classifiers.

    Al-Rfou et al. 2018, "Character-Level Language Modeling with Deeper Self-Attention", section "Intermediate Layer
    Losses". The lowest layers stop first. With span 0.5 all have stopped at half of training; another interval in the
    paper corresponds to span 1.

    >>> [al_rfou(layer, 4, progress=0.2) for layer in (1, 2, 3, 4)]
    [0.0, 1.0, 1.0, 1.0]
    """
    return 1.0 if layer == layers else schedules.until(span * layer / layers)(progress)


def layerskip(
    layer: int,
    layers: int,
    progress: float,
    step: int = 0,
    scale: float = 0.2,
    every: int = 0,
    gradual: bool = False,
    from_zero: bool = False,
) -> float:
    """e(l) = s (1 + ... + l) for l < n, e(n) = n - 1 + s (1 + ... + n - 1), over their sum for the active layers.

    Elhoushi et al. 2024, "LayerSkip", section 4.1.2 (early exit loss, curricula). The last layer is always active.
    Rotational curriculum: every R-th other layer, shifted by one each step (`every`; 0 takes R = n / 4, at least 1).
    Gradual curriculum (`gradual`): one more layer every 1/(2n) of training, deepest first. The paper shares the final
    norm and head between layers, and drops layers more often the deeper they are.

    The paper may count layers from 0 (from memory, unconfirmed): e(l) = s (0 + ... + l) for 0 <= l < n - 1 and
    e(n - 1) = n - 1 + s (0 + ... + n - 2). `from_zero` does so; the lowest layer then has weight 0 at all times. The
    default counts from 1, so that every layer has a loss; the results in docs/results.md use it.
    """

    def active(other: int) -> bool:
        if other == layers:
            return True
        if gradual:
            return layers - other <= _completed_stages(progress * 2 * layers)
        return (other - step) % (every or max(1, layers // 4)) == 0

    def share(other: int) -> float:
        number = other - 1 if from_zero else other
        if other < layers:
            return scale * number * (number + 1) / 2
        return layers - 1 + scale * (number - 1) * number / 2

    if not active(layer):
        return 0.0
    if layers == 1:
        return 1.0
    return share(layer) / sum(share(other) for other in range(1, layers + 1) if active(other))


def ee_llm(layer: int, layers: int, first: float = 0.25, second: float = 0.5) -> float:
    """Exits at 1/4 and 1/2 of the depth (rounded up) with weights 0.25 and 0.5, constant; the last layer 1.

    Chen et al. 2024, "EE-LLM". Its other setting is first=0.1, second=0.2.
    """
    if layer == layers:
        return 1.0
    if layer == math.ceil(layers / 2):
        return second
    return first if layer == math.ceil(layers / 4) else 0.0


def calm(layer: int, layers: int) -> float:
    """l / (1 + ... + n), the last layer too: Schuster et al. 2022, "Confident Adaptive Language Modeling", eq. 4."""
    return layer / (layers * (layers + 1) / 2)


def deed(layer: int, layers: int) -> float:
    """1/n for every layer, and the last once more: 1 + 1/n. Tang et al. 2024, "DEED"."""
    return 1 / layers + (1.0 if layer == layers else 0.0)


def deeply_supervised(main: bool, progress: float, start: float = 0.1) -> float:
    """0.1 (1 - t); the last layer 1. Lee et al. 2015, "Deeply-Supervised Nets".

    The paper also drops a layer once its loss is low enough: `rules.hinge` does that.
    """
    return 1.0 if main else start * (1 - progress)


def inter_ctc(layer: int, layers: int, share: float = 0.3) -> float:
    """0.3 over the n - 1 intermediate layers evenly, 0.7 for the last. Lee and Watanabe 2021, "Intermediate CTC"."""
    if layers == 1:
        return 1.0
    return 1 - share if layer == layers else share / (layers - 1)


def early_anneal(layer: int, layers: int, progress: float, start: float = 0.1, end: float = 0.05) -> float:
    """The lowest layer alone, from 0.1 straight down to 0 over the first 5% of training; the last layer 1. Jin 2026."""
    if layer == layers:
        return 1.0
    return schedules.linear(start, 0.0, until=end)(progress) if layer == 1 else 0.0


def shallow_heavy(layer: int, layers: int) -> float:
    """1 / (l + 1) at all times; the last layer 1. The counter-example: favouring shallow layers was found harmful."""
    return 1.0 if layer == layers else 1 / (layer + 1)


def al_rfou_targets(offset: int, extra: float = 0.5) -> float:
    """1 for the next, 0.5 for each one after it, with a classifier each. Al-Rfou et al. 2018, "Multiple Targets"."""
    return 1.0 if offset == 1 else extra


def multi_token_anneal(offset: int, progress: float) -> float:
    """1, 0.5 and 0.25 for offsets 1, 2, 3; the third falls to 0 in the first third of training, the second in the next.

    The schedule of modded-nanogpt, which adds no parameters. Offsets past 3 have 0.
    """
    if offset == 1:
        return 1.0
    if offset == 2:
        return schedules.piecewise([(1 / 3, 0.5), (2 / 3, 0.0)])(progress)
    return schedules.linear(0.25, 0.0, until=1 / 3)(progress) if offset == 3 else 0.0


def forward_curriculum(offset: int, offsets: int, progress: float) -> float:
    """1 for the first 1 + floor(t K) targets of K: more of them as training goes on (arXiv 2505.22757)."""
    return 1.0 if offset <= min(offsets, 1 + _completed_stages(progress * offsets)) else 0.0


def reverse_curriculum(offset: int, offsets: int, progress: float) -> float:
    """1 for the first K - floor(t K) targets of K, at least the next: fewer as training goes on (2505.22757)."""
    return 1.0 if offset <= max(1, offsets - _completed_stages(progress * offsets)) else 0.0


def blockwise(offset: int, offsets: int, step: int, seed: int = 0) -> float:
    """1 for one target of K, drawn at random for each step, 0 for the others: unbiased for their mean, at the cost of
    one.

    Stern et al. 2018, "Blockwise Parallel Decoding for Deep Autoregressive Models", section 6. The next character is
    one of the K. The draw is a function of (seed, step).
    """
    return 1.0 if offset == 1 + random.Random(f"{seed}:{step}").randrange(offsets) else 0.0


def medusa(offset: int, decay: float = 0.8) -> float:
    """0.8^h for head h = offset - 1, so 1 for the model's own head. Cai et al. 2024, "Medusa", section 2.2.

    >>> [round(medusa(offset), 2) for offset in (1, 2, 3)]
    [1.0, 0.8, 0.64]
    """
    return decay ** (offset - 1)


def deepseek(offset: int, offsets: int, progress: float, first: float = 0.3, second: float = 0.1) -> float:
    """0.3, and 0.1 after 10 of 14.8 parts of training, shared evenly by the extra targets; 1 for the next.

    DeepSeek-AI 2024, "DeepSeek-V3 Technical Report", sections 2.2 and 4.2. There one chained module predicts the extra
    target.
    """
    return 1.0 if offset == 1 else (first if progress < 10 / 14.8 else second) / (offsets - 1)


def _completed_stages(stages: float) -> int:
    """The number of completed stages; 15/22 of 22 are 15, also after rounding."""
    return math.floor(stages + 1e-9)


# Elhoushi et al. 2024 with the gradual curriculum, and with layers counted from 0.
layerskip_gradual = partial(layerskip, gradual=True)
layerskip_from_zero = partial(layerskip, from_zero=True)
layerskip_gradual_from_zero = partial(layerskip, gradual=True, from_zero=True)

inception = Constant(0.3, 'Szegedy et al. 2015, "Going Deeper with Convolutions", section 5')
pspnet = Constant(0.4, 'Zhao et al. 2017, "Pyramid Scene Parsing Network", section 3.3')
detr = Constant(1.0, 'Carion et al. 2020, "DETR", section 3.2; there all layers share a norm and a head')
# The heads of the paper are transformer layers, run one after another to save memory.
multi_token = Constant(1.0, 'Gloeckle et al. 2024, "Better & Faster Large Language Models via Multi-token Prediction"')

INTERMEDIATE: dict[str, Callable[..., float]] = {
    "al_rfou": al_rfou,
    "layerskip": layerskip,
    "layerskip_gradual": layerskip_gradual,
    "layerskip_from_zero": layerskip_from_zero,
    "layerskip_gradual_from_zero": layerskip_gradual_from_zero,
    "ee_llm": ee_llm,
    "calm": calm,
    "deed": deed,
    "deeply_supervised": deeply_supervised,
    "inception": inception,
    "pspnet": pspnet,
    "inter_ctc": inter_ctc,
    "detr": detr,
    "early_anneal": early_anneal,
    "shallow_heavy": shallow_heavy,
}
TARGETS: dict[str, Callable[..., float]] = {
    "al_rfou": al_rfou_targets,
    "multi_token": multi_token,
    "multi_token_anneal": multi_token_anneal,
    "forward_curriculum": forward_curriculum,
    "reverse_curriculum": reverse_curriculum,
    "blockwise": blockwise,
    "medusa": medusa,
    "deepseek": deepseek,
}
