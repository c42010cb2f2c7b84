"""The operations of reference.py in C (csrc/training). See build.py for how the C libraries are compiled and when they
are used.

The residual stream is float32, matrix products are float32 or bfloat16, sums are float32.

Shapes: as in reference.py.
"""

import ctypes
import hashlib

import numpy as np
import torch
from torch import Tensor

from charladder.kernels.build import MATMUL_FLAGS, Sources, decision
from charladder.kernels.build import NETWORK as SOURCES
from charladder.kernels.reference import HeadLayout

PLAIN_TENSOR_TYPES = (Tensor, torch.nn.Parameter)


def supports(x: Tensor, dtype: torch.dtype, sources: Sources = SOURCES) -> bool:
    """Whether a C library (by default the operations of this file) is available for a residual stream like x and this
    matmul dtype."""
    is_plain = type(x) in PLAIN_TENSOR_TYPES and x.dtype == torch.float32 and x.device.type == "cpu"
    return is_plain and dtype in MATMUL_FLAGS and library(dtype, sources) is not None


def unavailable_reason() -> str | None:
    """Why this process does not use C, in a few words; None where it does."""
    return decision().reason


def describe(*libraries: Sources) -> str:
    """Whether this process uses C, and the digests of these libraries, over all matmul dtypes."""
    current = decision()
    if current.reason is not None:
        return f"torch ({current.reason})"
    digests = ["".join(d for (_, key), d in current.digests.items() if key == sources) for sources in libraries]
    return " ".join(["C", *(hashlib.sha256(joined.encode()).hexdigest()[:32] for joined in digests)])


def library(dtype: torch.dtype, sources: Sources = SOURCES) -> ctypes.CDLL | None:
    """The compiled library for a matmul dtype; None where this process does not use C."""
    return decision().libraries.get((dtype, sources))


def call(
    name: str,
    dtype: torch.dtype,
    *arguments: Tensor | float | None,
    threads: int = 0,
    sources: Sources = SOURCES,
) -> None:
    """Calls a function of the library: tensors as pointers, floats as float, integers as long; then the number of
    threads. Raises TypeError for tensors that are not contiguous, not on the CPU, or neither float32, int64 nor of the
    matmul dtype."""
    c_library = library(dtype, sources)
    assert c_library is not None
    c_arguments = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            is_supported = argument.dtype in (torch.float32, torch.int64, dtype) and argument.device.type == "cpu"
            if not (is_supported and argument.is_contiguous()):
                raise TypeError(f"{name} in C cannot take {argument.dtype} of strides {argument.stride()}")
            c_arguments.append(ctypes.c_void_p(argument.data_ptr()))
        elif argument is None:
            c_arguments.append(None)
        else:
            c_arguments.append(ctypes.c_float(argument) if isinstance(argument, float) else ctypes.c_long(argument))
    getattr(c_library, name)(*c_arguments, ctypes.c_int(threads or torch.get_num_threads()))


def address(tensor: Tensor | np.ndarray) -> ctypes.c_void_p:
    """The address of the data of a contiguous tensor or array."""
    if isinstance(tensor, Tensor):
        assert tensor.is_contiguous()
        return ctypes.c_void_p(tensor.data_ptr())
    assert tensor.flags.c_contiguous
    return ctypes.c_void_p(tensor.ctypes.data)


def rms_norm(x_RD: Tensor, gain_D: Tensor, epsilon: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    R, D = x_RD.shape
    y_RD, inverse_R1 = x_RD.new_empty(R, D, dtype=dtype), x_RD.new_empty(R, 1)
    call("rms_norm_forward", dtype, x_RD, gain_D, epsilon, y_RD, inverse_R1, R, D)
    return y_RD, inverse_R1


def rms_norm_backward(
    grad_y_RD: Tensor, x_RD: Tensor, gain_D: Tensor, inverse_R1: Tensor, grad_residual_RD: Tensor | None
) -> tuple[Tensor, Tensor]:
    R, D = x_RD.shape
    grad_x_RD, grad_gain = torch.empty_like(x_RD), x_RD.new_zeros(torch.get_num_threads(), D)
    tensors = grad_y_RD, x_RD, gain_D, inverse_R1, grad_residual_RD, grad_x_RD, grad_gain
    call("rms_norm_backward", grad_y_RD.dtype, *tensors, R, D, threads=len(grad_gain))
    return grad_x_RD, grad_gain.sum(0)


def split_heads(
    qkv_RG: Tensor, gain_2E: Tensor, cos_sin: tuple[Tensor, Tensor], epsilon: float, layout: HeadLayout
) -> tuple[Tensor, Tensor]:
    B, T, H, E = layout
    qkv_3NTE, inverse_2BTH = qkv_RG.new_empty(3, B * H, T, E), gain_2E.new_empty(2, B, T, H)
    call("split_heads_forward", qkv_RG.dtype, qkv_RG, gain_2E, *cos_sin, epsilon, qkv_3NTE, inverse_2BTH, *layout)
    return qkv_3NTE, inverse_2BTH


def split_heads_backward(
    grad_qkv_3NTE: Tensor,
    qkv_RG: Tensor,
    gain_2E: Tensor,
    inverse_2BTH: Tensor,
    cos_sin: tuple[Tensor, Tensor],
    layout: HeadLayout,
) -> tuple[Tensor, Tensor]:
    grad_qkv_RG, grad_gain = torch.empty_like(qkv_RG), gain_2E.new_zeros(torch.get_num_threads(), *gain_2E.shape)
    tensors = grad_qkv_3NTE, qkv_RG, gain_2E, inverse_2BTH, *cos_sin, grad_qkv_RG, grad_gain
    call("split_heads_backward", qkv_RG.dtype, *tensors, *layout, threads=len(grad_gain))
    return grad_qkv_RG, grad_gain.sum(0)


def causal_softmax(score_NQS: Tensor, begin: int) -> None:
    call("causal_softmax_forward", score_NQS.dtype, score_NQS, *score_NQS.shape, begin)


def causal_softmax_backward(grad_NQS: Tensor, weight_NQS: Tensor, begin: int) -> None:
    call("causal_softmax_backward", grad_NQS.dtype, grad_NQS, weight_NQS, *grad_NQS.shape, begin)


def has_attention(qkv_3NTE: Tensor) -> bool:
    """Whether `attention` is available for heads of this size and dtype, and there are enough heads for all threads."""
    c_library, (_, N, _, E) = library(qkv_3NTE.dtype), qkv_3NTE.shape
    return c_library is not None and E % 32 == 0 and torch.get_num_threads() <= N and bool(c_library.has_attention())


def attention(qkv_3NTE: Tensor, layout: HeadLayout) -> tuple[Tensor, Tensor]:
    """Causal attention of scaled queries, (R, D), and the log-sum-exp of each query's scores, (N, T)."""
    B, T, H, E = layout
    y_RD, log_sum_exp_NT = qkv_3NTE.new_empty(B * T, H * E), qkv_3NTE.new_empty(B * H, T, dtype=torch.float32)
    call("attention_forward", qkv_3NTE.dtype, qkv_3NTE, y_RD, log_sum_exp_NT, *layout)
    return y_RD, log_sum_exp_NT


def attention_backward(
    grad_y_RD: Tensor, qkv_3NTE: Tensor, y_RD: Tensor, log_sum_exp_NT: Tensor, layout: HeadLayout
) -> Tensor:
    grad_qkv_3NTE = torch.empty_like(qkv_3NTE)
    call("attention_backward", qkv_3NTE.dtype, grad_y_RD, qkv_3NTE, y_RD, log_sum_exp_NT, grad_qkv_3NTE, *layout)
    return grad_qkv_3NTE


def swiglu(gate_up_RG: Tensor) -> Tensor:
    R, G = gate_up_RG.shape
    hidden_RF = gate_up_RG.new_empty(R, G // 2)
    call("swiglu_forward", gate_up_RG.dtype, gate_up_RG, hidden_RF, R, G // 2)
    return hidden_RF


def swiglu_backward(grad_hidden_RF: Tensor, gate_up_RG: Tensor) -> Tensor:
    grad_gate_up_RG = torch.empty_like(gate_up_RG)
    call("swiglu_backward", gate_up_RG.dtype, grad_hidden_RF, gate_up_RG, grad_gate_up_RG, *grad_hidden_RF.shape)
    return grad_gate_up_RG
