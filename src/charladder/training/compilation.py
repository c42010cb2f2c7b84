"""Compilation of a network by block: all layers are the same code on other weights, so one compilation serves them.

The losses stay outside, and so a layer that falls silent compiles nothing anew; what lies between their products is
compiled by itself.
"""

import contextlib
import importlib.util
from contextlib import AbstractContextManager

import torch

from charladder.model import Transformer
from charladder.objective import LanguageModelObjective
from charladder.objective.cross_entropy_kernels import CompiledOperations


def should_compile(name: str, device: torch.device) -> bool:
    """`auto` compiles on a GPU that torch's compiler serves; on a CPU the steps written by hand are faster, and ready
    at once (docs/decisions/0022)."""
    if name != "auto":
        return name != "never"
    there = device.type == "cuda" and importlib.util.find_spec("triton") is not None
    return there and torch.cuda.get_device_capability(device) >= (7, 0)


def should_capture_graphs(name: str, device: torch.device) -> bool:
    """Whether steps are to be captured and replayed as CUDA graphs (cuda_graph.py)."""
    return device.type == "cuda" and (name == "graphs" or (name == "auto" and should_compile(name, device)))


def compile_blocks(network: Transformer, backend: str = "inductor") -> None:
    """Compiles the blocks of a network, each at its first call with a new shape."""
    for block in network.blocks:
        block.compile(backend=backend, dynamic=False)


def compile_losses(objective: LanguageModelObjective, backend: str = "inductor") -> None:
    """The same for what lies between the products of its classifiers."""
    objective.use_operations(CompiledOperations(backend))


def run_eagerly(active: bool) -> AbstractContextManager[object]:
    """Where blocks that have been compiled run as they are, if `active`: for passes of other shapes, and for those
    whose backward pass is walked twice, which compiled code does not allow."""
    return torch.compiler.set_stance("force_eager") if active else contextlib.nullcontext()
