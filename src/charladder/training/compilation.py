"""Compilation of a network by block: all rungs are the same code on other weights, so one compilation serves them.

The losses stay outside, and so a rung that falls silent compiles nothing anew.
"""

import contextlib
from contextlib import AbstractContextManager

import torch

from charladder.model import Transformer


def choose_compiled(name: str, device: torch.device) -> bool:
    """`auto` compiles on a GPU; on a CPU the hand-written steps are as fast, and ready at once (docs/diary.md)."""
    return name == "blocks" or (name == "auto" and device.type == "cuda")


def compile_blocks(network: Transformer, backend: str = "inductor") -> None:
    """Compiles the blocks of a network, each at its first call with a new shape."""
    for block in network.blocks:
        block.compile(backend=backend, dynamic=False)


def uncompiled(active: bool) -> AbstractContextManager[object]:
    """Where blocks that have been compiled run as they are, if `active`: for passes of other shapes, and for those
    whose backward pass is walked twice, which compiled code does not allow."""
    return torch.compiler.set_stance("force_eager") if active else contextlib.nullcontext()
