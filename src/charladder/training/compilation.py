"""Compilation of a network by block: all blocks have the same code, so one compilation serves all layers.

The losses are outside the compiled blocks, so nothing is recompiled when the weight of a loss becomes 0. The
operations of the losses, except matrix products, are compiled separately.
"""

import contextlib
import importlib.util
from contextlib import AbstractContextManager

import torch
from torch import nn

from charladder.model.block import Block
from charladder.objective import LanguageModelObjective
from charladder.objective.cross_entropy_kernels import CompiledOperations


def should_compile(name: str, device: torch.device) -> bool:
    """Whether blocks are compiled. `auto` compiles on a GPU that torch.compile supports; on a CPU the hand-written
    kernels are faster and need no compilation (docs/decisions/0022)."""
    if name != "auto":
        return name != "never"
    has_triton = device.type == "cuda" and importlib.util.find_spec("triton") is not None
    return has_triton and torch.cuda.get_device_capability(device) >= (7, 0)


def should_capture_graphs(name: str, device: torch.device) -> bool:
    """Whether steps are captured and replayed as CUDA graphs (step_graph.py)."""
    return device.type == "cuda" and (name == "graphs" or (name == "auto" and should_compile(name, device)))


def compile_blocks(module: nn.Module, backend: str = "inductor") -> None:
    """Compiles the blocks of a network, or of an objective with chained targets; compilation happens at the first call
    with a new shape."""
    for block in module.modules():
        if isinstance(block, Block):
            block.compile(backend=backend, dynamic=False)


def compile_losses(objective: LanguageModelObjective, backend: str = "inductor") -> None:
    """Compiles the operations of the losses, except the matrix products of the classifiers."""
    objective.use_operations(CompiledOperations(backend))


def run_eagerly(active: bool) -> AbstractContextManager[object]:
    """A context in which compiled blocks run eagerly, if `active`: for inputs of other shapes, and for a backward pass
    that runs twice, which compiled code does not support."""
    return torch.compiler.set_stance("force_eager") if active else contextlib.nullcontext()
