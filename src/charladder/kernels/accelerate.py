"""Fast blocks for training on a CPU: `accelerate` swaps them into a network, once."""

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from charladder.kernels.autograd_functions import AttentionFunction, RMSNormFunction, SwiGLUFunction


def accelerate(model: nn.Module) -> None:
    """Replaces the class of each RMSNorm and of each fusible block of `model` by a subclass, in place, as torch's
    `fully_shard` does. Parameters, their names and the state dict are unchanged.

    The subclass computes a training step on a CPU with the autograd functions of this package, in C where it can be
    compiled. Without gradients, on other devices, with dropout or a cache, while torch compiles, and where a part of a
    block has a hook or was replaced, the original class computes it.

    A block is fusible if its attribute `fusible` is true. It then has two norms, `attention_norm` and
    `feed_forward_norm` (RMSNorm); `attention`, with the bias-free linear layers `query`, `key`, `value` and `output`,
    the RMSNorms `query_norm` and `key_norm`, and an even head size; and `feed_forward`, with the bias-free linear
    layers `gate`, `up` and `down`. It computes x + attention(norm(x)), and then x + feed_forward(norm(x)).
    """
    modules = list(model.modules())
    for module in modules:
        if isinstance(module, nn.RMSNorm) and module.weight is not None and not isinstance(module, _FastRMSNorm):
            module.__class__ = _with(_FastRMSNorm, type(module))
    for module in modules:
        if getattr(module, "fusible", False) and not isinstance(module, _FastBlock):
            module.__class__ = _with(_FastBlock, type(module))
            fast = cast(_FastBlock, module)
            fast.part_types = [type(part) for part in module.modules() if part is not module]


@functools.cache
def _with(fast: type, original: type[nn.Module]) -> type:
    return type(f"Fast{original.__name__}", (fast, original), {"__module__": original.__module__})


def _applies_to(x: Tensor) -> bool:
    return torch.is_grad_enabled() and not torch.compiler.is_compiling() and x.device.type == "cpu"


def _has_hook(module: nn.Module) -> bool:
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(hooks)


class _FastRMSNorm(nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        if _applies_to(x):
            return RMSNormFunction.apply(x, self.weight, self.eps)
        return super().forward(x)


class _FastBlock(nn.Module):
    part_types: list[type]  # of all modules inside the block, when it was accelerated

    def forward(
        self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor] | None, extend: Callable | None, dropout: Any
    ) -> Tensor:
        if extend is not None or dropout is not None or not _applies_to(x_BTD) or not self.is_unmodified():
            return super().forward(x_BTD, rotary, extend, dropout)
        block = cast(Any, self)
        a, a_norm, f, f_norm = block.attention, block.attention_norm, block.feed_forward, block.feed_forward_norm
        x_BTD = AttentionFunction.apply(
            x_BTD, a_norm.weight, a.query.weight, a.key.weight, a.value.weight, a.query_norm.weight, a.key_norm.weight,
            a.output.weight, rotary, a_norm.eps,
        )  # fmt: skip
        return SwiGLUFunction.apply(x_BTD, f_norm.weight, f.gate.weight, f.up.weight, f.down.weight, f_norm.eps)

    def is_unmodified(self) -> bool:
        """Whether no module inside the block was replaced by one of another class, and none has a hook."""
        parts = [part for part in self.modules() if part is not self]
        return [type(part) for part in parts] == self.part_types and not any(map(_has_hook, parts))
