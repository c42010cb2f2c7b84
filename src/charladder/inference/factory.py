"""The choice of the fastest model runner for a network on this machine."""

import copy

import torch

from charladder.errors import UserError
from charladder.inference.batched import BatchedRunner
from charladder.inference.pack_weights import PackedWeights, can_pack, supports_architecture
from charladder.inference.packed_runner import PackedRunner
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
    """The fastest runner for a network, with a cache of `slots` sequences of `context` characters (default: its own).

    dtype: of weights, keys and values; bfloat16 halves the memory traffic and rounds the network. share_weights_with:
    another runner of the same network. Raises UserError for a context that the network does not support, and for
    bfloat16 on a CPU if the network cannot be packed.
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
        reason = native.unavailable_reason() if supports_architecture(network) else None
        reason = reason or "this network has another architecture"
        raise UserError(f"bfloat16 on a CPU needs packed weights: {reason}", field="precision", rule="use float32")
    if isinstance(share_weights_with, BatchedRunner):
        network = share_weights_with.network
    elif dtype != torch.float32:
        network = copy.deepcopy(network).to(dtype)
        network.output.float()  # logits stay in float32
    return EagerRunner(network, 1, context) if slots == 1 and on_cpu else BatchedRunner(network, slots, context)
