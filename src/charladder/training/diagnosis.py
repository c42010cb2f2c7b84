"""Gradients of a training step by layer: those of the auxiliary terms compared with those of the main loss."""

import math

import torch
from torch import nn

from charladder.auxiliary import Diagnosis, Report, diagnose
from charladder.model import Transformer


def compare_gradients(report: Report, network: Transformer) -> Diagnosis | None:
    """Compares the main gradient of a micro-batch with those of two groups of auxiliary terms, by layer: the terms of
    intermediate layers, and the further targets of the last layer. Called before the backward pass. None if no
    auxiliary term contributes, or the loss is not finite."""
    active = [name for name, term in report.terms.items() if term.weight and name != "main"]
    if not active or not math.isfinite(report.value):  # the value of all ranks, so that all decide alike
        return None
    last = f"layer{network.settings.layers}."
    return diagnose(report, _by_layer(network), lambda name: "targets" if name.startswith(last) else "layers")


def main_gradient_norms(report: Report, network: Transformer) -> Diagnosis | None:
    """The norms by layer of the gradient that the backward pass of a micro-batch has left, where no auxiliary term
    contributes. None if the loss is not finite."""
    if not math.isfinite(report.value):
        return None
    norms = {}
    for layer, parameters in _by_layer(network).items():
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norms[layer] = float(torch.nn.utils.get_total_norm(gradients))
    return Diagnosis({}, 1.0, norms, norms)


def _by_layer(network: Transformer) -> dict[str, list[nn.Parameter]]:
    return {f"layer{layer}": list(block.parameters()) for layer, block in enumerate(network.blocks, 1)}
