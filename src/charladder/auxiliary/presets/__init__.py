"""Auxiliary losses from the literature, by name. Section numbers in their docstrings are from memory.

Weights for intermediate layers and for targets several characters ahead: functions of the layer or the offset, and of
progress. INTERMEDIATE and TARGETS list them by the names that Term(weight="al_rfou") takes.

Terms whose target comes from the network itself or from another one (docs/representation-losses.md): repa,
feature_hint, self_distillation, latent_prediction; and for networks that call their modules several times, looped.

Terms of other kinds of losses (docs/kinds-of-losses.md): load_balance, router_z, z_loss, detr_term; and groups of
terms for `aux.Objective(**group)`: nnunet, monai, deep_supervision, detr_decoder.

Terms that predict tokens further ahead (docs/multi-token.md): independent_targets, leap_targets, chained_targets,
token_order, future_bag.
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
from charladder.auxiliary.presets._chained_targets import chained_targets
from charladder.auxiliary.presets._detection import detr_decoder, detr_term, generalized_iou
from charladder.auxiliary.presets._feature_hints import feature_hint
from charladder.auxiliary.presets._future_bag import future_bag
from charladder.auxiliary.presets._independent_targets import independent_targets, leap_targets
from charladder.auxiliary.presets._latent_prediction import latent_prediction
from charladder.auxiliary.presets._looped_networks import looped
from charladder.auxiliary.presets._mixture_of_experts import load_balance, router_z
from charladder.auxiliary.presets._output_z import z_loss
from charladder.auxiliary.presets._representation_alignment import repa
from charladder.auxiliary.presets._segmentation import deep_supervision, monai, nnunet, resize_labels
from charladder.auxiliary.presets._self_distillation import self_distillation
from charladder.auxiliary.presets._token_order import token_order

__all__ = [
    "INTERMEDIATE",
    "TARGETS",
    "Constant",
    "al_rfou",
    "al_rfou_targets",
    "blockwise",
    "calm",
    "chained_targets",
    "deed",
    "deep_supervision",
    "deeply_supervised",
    "deepseek",
    "detr",
    "detr_decoder",
    "detr_term",
    "early_anneal",
    "ee_llm",
    "feature_hint",
    "forward_curriculum",
    "future_bag",
    "generalized_iou",
    "inception",
    "independent_targets",
    "inter_ctc",
    "latent_prediction",
    "layerskip",
    "layerskip_from_zero",
    "layerskip_gradual",
    "layerskip_gradual_from_zero",
    "leap_targets",
    "load_balance",
    "looped",
    "medusa",
    "monai",
    "multi_token",
    "multi_token_anneal",
    "nnunet",
    "pspnet",
    "repa",
    "resize_labels",
    "reverse_curriculum",
    "router_z",
    "self_distillation",
    "shallow_heavy",
    "token_order",
    "z_loss",
]
