"""Auxiliary losses from the literature, by name.

Weights for intermediate layers and for targets several characters ahead: functions of the layer or the offset, and of
progress. INTERMEDIATE and TARGETS list them by the names that Term(weight="al_rfou") takes.

Terms whose target comes from the network itself or from another one (docs/representation-losses.md): repa,
feature_hint, self_distillation, latent_prediction; and for networks that call their modules several times, looped.
Section numbers in their docstrings are from memory.
"""

from charladder.auxiliary._weight_presets import (
    INTERMEDIATE,
    TARGETS,
    Constant,
    al_rfou,
    al_rfou_targets,
    blockwise,
    calm,
    deed,
    deeply_supervised,
    deepseek,
    detr,
    early_anneal,
    ee_llm,
    forward_curriculum,
    inception,
    inter_ctc,
    layerskip,
    layerskip_from_zero,
    layerskip_gradual,
    layerskip_gradual_from_zero,
    medusa,
    multi_token,
    multi_token_anneal,
    pspnet,
    reverse_curriculum,
    shallow_heavy,
)
from charladder.auxiliary.presets._feature_hints import feature_hint
from charladder.auxiliary.presets._latent_prediction import latent_prediction
from charladder.auxiliary.presets._looped_networks import looped
from charladder.auxiliary.presets._representation_alignment import repa
from charladder.auxiliary.presets._self_distillation import self_distillation

__all__ = [
    "INTERMEDIATE",
    "TARGETS",
    "Constant",
    "al_rfou",
    "al_rfou_targets",
    "blockwise",
    "calm",
    "deed",
    "deeply_supervised",
    "deepseek",
    "detr",
    "early_anneal",
    "ee_llm",
    "feature_hint",
    "forward_curriculum",
    "inception",
    "inter_ctc",
    "latent_prediction",
    "layerskip",
    "layerskip_from_zero",
    "layerskip_gradual",
    "layerskip_gradual_from_zero",
    "looped",
    "medusa",
    "multi_token",
    "multi_token_anneal",
    "pspnet",
    "repa",
    "reverse_curriculum",
    "self_distillation",
    "shallow_heavy",
]
