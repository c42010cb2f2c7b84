"""Weights of a network packed for the C code: matrices rearranged into panels for fast reading on a CPU.

Shapes: D width, F feed-forward width; O outputs and K inputs of a matrix.
"""

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from charladder.kernels import native
from charladder.model.transformer import Transformer

PANEL_WIDTH = 32  # outputs of a panel, as in csrc/gemm/panels.h
LANES = 16  # a dimension that vector instructions process is padded to a multiple of this, as in csrc/gemm/panels.h
LARGE_PAGE = 2 << 20  # bytes


def aligned_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of zeros in memory from NumPy, which unlike torch requests large pages: reading them causes fewer TLB
    misses. A tensor larger than a page starts at a page boundary."""
    size = math.prod(shape) * dtype.itemsize
    alignment = LARGE_PAGE if size > LARGE_PAGE else 1
    memory = np.zeros(size + alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    return torch.from_numpy(memory[start : start + size]).view(dtype).view(shape)


def pack_panels(matrix_OK: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix as panels of 32 outputs, padded with 0: (ceil(O / 32), K, 32) in float32; (ceil(O / 32), K / 2, 32, 2)
    in bfloat16, with K padded to a multiple of 32."""
    outputs, inputs = matrix_OK.shape
    inputs_per_group = 1 if dtype == torch.float32 else 2  # adjacent in memory, as the instructions for bfloat16 need
    K = inputs if inputs_per_group == 1 else -(-inputs // PANEL_WIDTH) * PANEL_WIDTH
    padded = torch.zeros(-(-outputs // PANEL_WIDTH) * PANEL_WIDTH, K, dtype=dtype)
    padded[:outputs, :inputs] = matrix_OK
    panels = padded.view(-1, PANEL_WIDTH, K // inputs_per_group, inputs_per_group).transpose(1, 2)
    return aligned_zeros(tuple(panels.shape), dtype).copy_(panels)


def scratch_size(rows: int, max_inputs: int) -> int:
    """How many float32 numbers of scratch memory a thread needs to round its inputs to bfloat16, as in gemm.h."""
    rows = min(rows if rows <= 16 else -(-rows // 32) * 32, 128)
    return rows * -(-max_inputs // 32) * 16


def interleave_gate(gate_FD: Tensor, up_FD: Tensor) -> Tensor:
    """Both matrices in one, alternating 16 rows of each: (2 F, D), F padded to a multiple of 16."""
    F, D = gate_FD.shape
    padded = torch.zeros(2, -(-F // LANES) * LANES, D)
    padded[0, :F], padded[1, :F] = gate_FD, up_FD
    return padded.view(2, -1, LANES, D).transpose(0, 1).reshape(-1, D)


def can_pack(network: Transformer, dtype: torch.dtype = torch.float32) -> bool:
    """Whether PackedWeights supports the network, in `dtype`, on this machine."""
    weight = network.output.weight
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
    return supports_architecture(network) and on_cpu and native.library(dtype) is not None


def supports_architecture(network: Transformer) -> bool:
    """Whether decode.c implements the architecture of the network."""
    s = network.settings
    architecture = (s.block, s.norm_placement, s.positions, network.lookback, s.head_size % 2)
    return architecture == ("modern", "pre", "rotary", 0, 0)


class PackedWeights:
    """Packed copies of a network's matrices in float32 or bfloat16. Norms and embeddings stay in float32."""

    def __init__(self, network: Transformer, dtype: torch.dtype = torch.float32) -> None:
        library = native.library(dtype)
        assert library is not None and can_pack(network, dtype)
        self.library, self.dtype, self.settings = library, dtype, network.settings
        self.embedding = network.embedding.weight.detach().clone()
        self.final_gain = cast(Tensor, network.norm.weight).detach().clone()
        self.output = pack_panels(network.output.weight.detach(), dtype)
        self.alphabet = len(network.output.weight)
        self.layer_tensors: list[Tensor] = []
        for block in cast(Any, network.blocks):
            attention, feed_forward = block.attention, block.feed_forward
            qkv = torch.cat([attention.query.weight, attention.key.weight, attention.value.weight])
            gate_up = interleave_gate(feed_forward.gate.weight, feed_forward.up.weight)
            tensors = (
                block.attention_norm.weight.clone(),
                pack_panels(qkv, dtype),
                torch.stack([attention.query_norm.weight, attention.key_norm.weight]),
                pack_panels(attention.output.weight, dtype),
                block.feed_forward_norm.weight.clone(),
                pack_panels(gate_up, dtype),
                pack_panels(feed_forward.down.weight, dtype),
            )
            self.layer_tensors += [tensor.detach().contiguous() for tensor in tensors]
