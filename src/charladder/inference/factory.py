"""Chooses the fastest model runner for a network on this machine."""

import copy

import torch

from charladder.errors import UserError
from charladder.inference.batched import BatchedRunner
from charladder.inference.packed_cpu import PackedRunner, PackedWeights, can_pack, has_packed_architecture
from charladder.inference.runner import EagerRunner, ModelRunner
from charladder.kernels import native
from charladder.model import Transformer


def open_runner(
    network: Transformer,
    slots: int = 1,
    context: int | None = None,
    dtype: torch.dtype = torch.float32,
    share_weights_with: ModelRunner | None = None,
) -> ModelRunner:
    """The fastest reader there is for a network, of so many streams, at `context` characters (its own unless given).

    like: another reader of it, whose weights serve again. weights: bfloat16 halves what a pass has to fetch and rounds
    the network. Raises UserError for a context it cannot have, and for bfloat16 on a CPU where there is no packed pass.
    """
    s = network.settings
    context = s.context if context is None else context
    if context < 2:
        raise UserError(field="context", value=context, rule="it must be at least 2 characters")
    if context > s.context and s.learned_positions:
        raise UserError(field="context", value=context, rule=f"the position tables end at {s.context}")
    if isinstance(share_weights_with, PackedRunner):
        return PackedRunner(share_weights_with.weights, slots, context)
    if can_pack(network, dtype):
        return PackedRunner(PackedWeights(network, dtype), slots, context)
    on_cpu = network.output.weight.device.type == "cpu"
    if dtype != torch.float32 and on_cpu:
        why = (
            native.unavailable_reason() if has_packed_architecture(network) else None
        ) or "this network is not of the kind it reads"
        raise UserError(f"bfloat16 on a CPU needs packed weights: {why}", field="precision", rule="use float32")
    if isinstance(share_weights_with, BatchedRunner):
        network = share_weights_with.network
    elif dtype != torch.float32:
        network = copy.deepcopy(network).to(dtype)
        network.output.float()  # logits are not rounded
    return EagerRunner(network, 1, context) if slots == 1 and on_cpu else BatchedRunner(network, slots, context)
