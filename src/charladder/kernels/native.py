"""The operations of reference.py in C (csrc/training). See build.py for how the C libraries are compiled and when they
are used.

The residual stream is float32, matrix products are float32 or bfloat16, sums are float32.

Shapes: as in reference.py.
"""

import ctypes
import hashlib

import torch
from torch import Tensor

from charladder.kernels.build import MATMUL_FLAGS, Sources, decision
from charladder.kernels.build import NETWORK as SOURCES
from charladder.kernels.reference import HeadLayout

PLAIN_TENSORS = (Tensor, torch.nn.Parameter)


def supports(x: Tensor, products: torch.dtype, sources: Sources = SOURCES) -> bool:
    """Whether a C library (by default the operations of this file) is available for a residual stream like x and this
    matmul dtype."""
    plain = type(x) in PLAIN_TENSORS and x.dtype == torch.float32 and x.device.type == "cpu"
    return plain and products in MATMUL_FLAGS and library(products, sources) is not None


def unavailable_reason() -> str | None:
    """Why this process does not use C, in a few words; None where it does."""
    return decision().reason


def describe(*libraries: Sources) -> str:
    """Whether this process uses C, and the digests of these libraries, over all types of products."""
    decided = decision()
    if decided.reason is not None:
        return f"torch ({decided.reason})"
    digests = ["".join(d for (_, sources), d in decided.digests.items() if sources == one) for one in libraries]
    return " ".join(["C", *(hashlib.sha256(joined.encode()).hexdigest()[:32] for joined in digests)])


def library(products: torch.dtype, sources: Sources = SOURCES) -> ctypes.CDLL | None:
    """The compiled library for a matmul dtype; None where this process does not use C."""
    return decision().libraries.get((products, sources))


def call(
    name: str,
    products: torch.dtype,
    *arguments: Tensor | float | None,
    threads: int = 0,
    sources: Sources = SOURCES,
) -> None:
    """Calls a function of the library: tensors as pointers, floats as float, integers as long; then the number of
    threads. Raises TypeError for tensors that are not contiguous, not on the CPU, or neither float32, int64 nor of the
    matmul dtype."""
    found = library(products, sources)
    assert found is not None
    given = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            fits = argument.dtype in (torch.float32, torch.int64, products) and argument.device.type == "cpu"
            if not (fits and argument.is_contiguous()):
                raise TypeError(f"{name} in C cannot take {argument.dtype} of strides {argument.stride()}")
            given.append(ctypes.c_void_p(argument.data_ptr()))
        elif argument is None:
            given.append(None)
        else:
            given.append(ctypes.c_float(argument) if isinstance(argument, float) else ctypes.c_long(argument))
    getattr(found, name)(*given, ctypes.c_int(threads or torch.get_num_threads()))


def rms_norm(x_RD: Tensor, gain_D: Tensor, epsilon: float, products: torch.dtype) -> tuple[Tensor, Tensor]:
    R, D = x_RD.shape
    y_RD, inverse_R1 = x_RD.new_empty(R, D, dtype=products), x_RD.new_empty(R, 1)
    call("rms_norm_forward", products, x_RD, gain_D, epsilon, y_RD, inverse_R1, R, D)
    return y_RD, inverse_R1


def rms_norm_backward(
    of_y_RD: Tensor, x_RD: Tensor, gain_D: Tensor, inverse_R1: Tensor, along_RD: Tensor | None
) -> tuple[Tensor, Tensor]:
    R, D = x_RD.shape
    of_x_RD, of_gain = torch.empty_like(x_RD), x_RD.new_zeros(torch.get_num_threads(), D)
    tensors = of_y_RD, x_RD, gain_D, inverse_R1, along_RD, of_x_RD, of_gain
    call("rms_norm_backward", of_y_RD.dtype, *tensors, R, D, threads=len(of_gain))
    return of_x_RD, of_gain.sum(0)


def split_heads(
    mixed_RG: Tensor, gain_2E: Tensor, angles: tuple[Tensor, Tensor], epsilon: float, layout: HeadLayout
) -> tuple[Tensor, Tensor]:
    B, T, H, E = layout
    qkv_3NTE, inverse_2BTH = mixed_RG.new_empty(3, B * H, T, E), gain_2E.new_empty(2, B, T, H)
    call("split_heads_forward", mixed_RG.dtype, mixed_RG, gain_2E, *angles, epsilon, qkv_3NTE, inverse_2BTH, *layout)
    return qkv_3NTE, inverse_2BTH


def split_heads_backward(
    of_qkv_3NTE: Tensor,
    mixed_RG: Tensor,
    gain_2E: Tensor,
    inverse_2BTH: Tensor,
    angles: tuple[Tensor, Tensor],
    layout: HeadLayout,
) -> tuple[Tensor, Tensor]:
    of_mixed_RG, of_gain = torch.empty_like(mixed_RG), gain_2E.new_zeros(torch.get_num_threads(), *gain_2E.shape)
    tensors = of_qkv_3NTE, mixed_RG, gain_2E, inverse_2BTH, *angles, of_mixed_RG, of_gain
    call("split_heads_backward", mixed_RG.dtype, *tensors, *layout, threads=len(of_gain))
    return of_mixed_RG, of_gain.sum(0)


def causal_softmax(score_NQS: Tensor, begin: int) -> None:
    call("causal_softmax_forward", score_NQS.dtype, score_NQS, *score_NQS.shape, begin)


def causal_softmax_backward(of_NQS: Tensor, weight_NQS: Tensor, begin: int) -> None:
    call("causal_softmax_backward", of_NQS.dtype, of_NQS, weight_NQS, *of_NQS.shape, begin)


def has_attention(qkv_3NTE: Tensor) -> bool:
    """Whether `attention` is available for heads of this size and dtype, and there are enough heads for all threads."""
    found, (_, N, _, E) = library(qkv_3NTE.dtype), qkv_3NTE.shape
    return found is not None and E % 32 == 0 and torch.get_num_threads() <= N and bool(found.has_attention())


def attention(qkv_3NTE: Tensor, layout: HeadLayout) -> tuple[Tensor, Tensor]:
    """Causal attention of scaled queries, (R, D), and the log-sum-exp of each query's scores, (N, T)."""
    B, T, H, E = layout
    y_RD, log_NT = qkv_3NTE.new_empty(B * T, H * E), qkv_3NTE.new_empty(B * H, T, dtype=torch.float32)
    call("attention_forward", qkv_3NTE.dtype, qkv_3NTE, y_RD, log_NT, *layout)
    return y_RD, log_NT


def attention_backward(of_y_RD: Tensor, qkv_3NTE: Tensor, y_RD: Tensor, log_NT: Tensor, layout: HeadLayout) -> Tensor:
    of_qkv_3NTE = torch.empty_like(qkv_3NTE)
    call("attention_backward", qkv_3NTE.dtype, of_y_RD, qkv_3NTE, y_RD, log_NT, of_qkv_3NTE, *layout)
    return of_qkv_3NTE


def swiglu(both_RG: Tensor) -> Tensor:
    R, G = both_RG.shape
    hidden_RF = both_RG.new_empty(R, G // 2)
    call("swiglu_forward", both_RG.dtype, both_RG, hidden_RF, R, G // 2)
    return hidden_RF


def swiglu_backward(of_hidden_RF: Tensor, both_RG: Tensor) -> Tensor:
    of_both_RG = torch.empty_like(both_RG)
    call("swiglu_backward", both_RG.dtype, of_hidden_RF, both_RG, of_both_RG, *of_hidden_RF.shape)
    return of_both_RG
