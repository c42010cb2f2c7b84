"""Compilation of a network by block: all rungs are the same code on other weights, so one compilation serves them.

The losses stay outside, and so a rung that falls silent compiles nothing anew.
"""

import contextlib
import importlib.util
from contextlib import AbstractContextManager

import torch

from charladder.model import Transformer


def choose_compiled(name: str, device: torch.device) -> bool:
    """`auto` compiles on a GPU that torch's compiler serves; on a CPU the steps written by hand are faster, and ready
    at once (docs/diary.md)."""
    if name != "auto":
        return name != "never"
    there = device.type == "cuda" and importlib.util.find_spec("triton") is not None
    return there and torch.cuda.get_device_capability(device) >= (7, 0)


def compile_blocks(network: Transformer, backend: str = "inductor", graphs: bool = False) -> None:
    """Compiles the blocks of a network, each at its first call with a new shape.

    graphs: on a GPU, what a block launches is recorded as a CUDA graph and replayed at once, which is what a deep and
    narrow network lacks: its launches take longer than their work. Tell where a pass begins with `new_pass`.
    """
    for block in network.blocks:
        block.compile(backend=backend, dynamic=False, mode="reduce-overhead" if graphs else None)


def new_pass() -> None:
    """What CUDA graphs gave in the pass before may be written over from here on."""
    torch.compiler.cudagraph_mark_step_begin()


def uncompiled(active: bool) -> AbstractContextManager[object]:
    """Where blocks that have been compiled run as they are, if `active`: for passes of other shapes, and for those
    whose backward pass is walked twice, which compiled code does not allow."""
    return torch.compiler.set_stance("force_eager") if active else contextlib.nullcontext()
