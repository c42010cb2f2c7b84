"""Kernels: tensors in, tensors out. They know no network.

Reference operations in torch, the same in C for CPUs (csrc/), and autograd functions made of them.
"""
