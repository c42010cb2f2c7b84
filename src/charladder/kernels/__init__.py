"""Kernels for CPUs, and the capture of CUDA graphs. All take tensors or functions; only `accelerate` takes a network.

Reference operations in torch, the same operations in C (csrc/), autograd functions that call them, and `accelerate`,
which makes a network use these functions.
"""

from charladder.kernels.accelerate import accelerate

__all__ = ["accelerate"]
