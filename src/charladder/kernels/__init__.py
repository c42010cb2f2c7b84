"""Kernels: functions of tensors. No module here depends on a network.

Reference operations in torch, the same in C for CPUs (csrc/), autograd functions made of them, and `accelerate`, which
puts these into a network.
"""

from charladder.kernels.accelerate import accelerate

__all__ = ["accelerate"]
