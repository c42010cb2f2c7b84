"""The operations in C agree with the reference in torch, computed in float64."""

import copy
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import charladder
from charladder.kernels import accelerate, build, causal_attention, native, reference
from charladder.kernels.reference import HeadLayout
from charladder.model import Transformer
from helpers import make_trainer, small

DTYPES = [torch.float32, torch.bfloat16]
COMPILER = shutil.which(shlex.split(os.environ.get("CC") or "cc")[0])
pytestmark = pytest.mark.skipif(sys.platform != "linux" or COMPILER is None, reason="needs a C compiler")


def random_tensor(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_close_to_float64(actual, expected, dtype):
    """`actual` differs from the float64 result by no more than the rounding of its own type."""
    for one, exact in zip(actual, expected, strict=True):
        relative = float((one.double() - exact).norm() / exact.norm())
        assert relative < (2e-6 if one.dtype == torch.float32 and dtype == torch.float32 else 4e-3)


def to_double(*tensors):
    return tuple(tensor.double() for tensor in tensors)


@pytest.mark.parametrize("dtype", DTYPES)
def test_c_is_available_with_a_compiler(dtype):
    assert native.library(dtype) is not None
    assert native.supports(torch.ones(1, 2), dtype)
    assert native.describe(native.SOURCES).startswith("C ")


SIZES = [(1, 2), (3, 8), (7, 33), (129, 64), (500, 130)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, width", SIZES)
def test_rms_norm(rows, width, dtype):
    x, gain, grad_residual = (
        random_tensor(rows, width),
        1 + random_tensor(width, seed=1),
        random_tensor(rows, width, seed=3),
    )
    grad_y = random_tensor(rows, width, seed=2, dtype=dtype)
    y, inverse = native.rms_norm(x, gain, 1e-6, dtype)
    assert y.dtype == dtype
    exact = reference.rms_norm(*to_double(x, gain), 1e-6, torch.float64)
    assert_close_to_float64((y, inverse), exact, dtype)
    for residual in (None, grad_residual):
        actual = native.rms_norm_backward(grad_y, x, gain, inverse, residual)
        assert_close_to_float64(
            actual,
            reference.rms_norm_backward(
                *to_double(grad_y, x, gain), exact[1], None if residual is None else residual.double()
            ),
            dtype,
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [HeadLayout(1, 1, 1, 2), HeadLayout(2, 5, 3, 6), HeadLayout(3, 40, 2, 64)])
def test_split_heads(layout, dtype):
    B, T, H, E = layout
    qkv_rows, gain = random_tensor(B * T, 3 * H * E, dtype=dtype), 1 + random_tensor(2, E, seed=1)
    angle = random_tensor(T, E // 2, seed=2).repeat(1, 2)
    angles, grad_qkv = (angle.cos(), angle.sin()), random_tensor(3, B * H, T, E, seed=3, dtype=dtype)
    qkv, inverse = native.split_heads(qkv_rows, gain, angles, 1e-6, layout)
    exact = reference.split_heads(*to_double(qkv_rows, gain), to_double(*angles), 1e-6, layout)
    assert_close_to_float64((qkv, inverse), exact, dtype)
    actual = native.split_heads_backward(grad_qkv, qkv_rows, gain, inverse, angles, layout)
    assert_close_to_float64(
        actual,
        reference.split_heads_backward(*to_double(grad_qkv, qkv_rows, gain), exact[1], to_double(*angles), layout),
        dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads, queries, begin", [(1, 1, 0), (3, 5, 0), (2, 17, 128), (4, 128, 384)])
def test_causal_softmax(heads, queries, begin, dtype):
    score = random_tensor(heads, queries, begin + queries, dtype=dtype) * 5
    exact = score.double()
    native.causal_softmax(score, begin)
    reference.causal_softmax(exact, begin)
    assert_close_to_float64((score,), (exact,), dtype)
    masked = torch.ones(queries, begin + queries, dtype=torch.bool).triu(begin + 1)
    assert not score[:, masked].any()
    grad = random_tensor(*score.shape, seed=1, dtype=dtype)
    grad_exact = grad.double()
    native.causal_softmax_backward(grad, score, begin)
    reference.causal_softmax_backward(grad_exact, score.double(), begin)
    assert float((grad.double() - grad_exact).norm()) <= 4e-3 * float(grad_exact.norm()) + 1e-6
    assert not grad[:, masked].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, width", SIZES)
def test_swiglu(rows, width, dtype):
    gate_up, grad_hidden = (
        random_tensor(rows, 2 * width, dtype=dtype) * 4,
        random_tensor(rows, width, seed=1, dtype=dtype),
    )
    assert_close_to_float64((native.swiglu(gate_up),), (reference.swiglu(gate_up.double()),), dtype)
    assert_close_to_float64(
        (native.swiglu_backward(grad_hidden, gate_up),),
        (reference.swiglu_backward(*to_double(grad_hidden, gate_up)),),
        dtype,
    )


def test_extreme_numbers():
    x = torch.tensor([[-1e30, -200.0, -90.0, -1.0, 0.0, 1.0, 90.0, 1e30]])
    gate_up = torch.cat((x, torch.ones_like(x)), -1)
    torch.testing.assert_close(native.swiglu(gate_up), F.silu(x), rtol=1e-6, atol=1e-30)
    score = torch.tensor([[[3e38, -3e38, 0.0]]])
    native.causal_softmax(score, 2)
    assert score.tolist() == [[[1.0, 0.0, 0.0]]]
    score = torch.tensor([[[-702.0, -700.0, -701.0]]])
    expected = score.double().softmax(-1)
    native.causal_softmax(score, 2)
    torch.testing.assert_close(score.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_propagate(bad):
    x = torch.ones(2, 40)
    x[1, 7] = bad
    for y in (native.rms_norm(x, torch.ones(40), 1e-6, torch.bfloat16)[0], native.swiglu(x.bfloat16())):
        assert torch.isfinite(y[0]).all()
        assert not torch.isfinite(y[1]).all()
    score = torch.zeros(1, 2, 2, dtype=torch.bfloat16)
    score[0, 1, 0] = float("nan")
    native.causal_softmax(score, 0)
    assert score[0, 0].tolist() == [1.0, 0.0]
    assert score[0, 1].isnan().all()


def test_bfloat16_rounding_equals_torch():
    """With a row of ones and epsilon 0, the output is the gain, rounded."""
    bits = torch.randint(-(1 << 31), (1 << 31) - 1, (4096,), generator=torch.Generator().manual_seed(0)).int()
    ties = (bits & -65536) | 0x8000
    for pattern in (bits, ties):
        gain = pattern.view(torch.float32)
        gain = gain[gain.isfinite()]
        y, _ = native.rms_norm(torch.ones(1, len(gain)), gain, 0.0, torch.bfloat16)
        assert torch.equal(y[0], gain.bfloat16())


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0x7F800001, -1, -0x400000])
def test_bfloat16_rounding_keeps_nan(bits):
    gain = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
    one = torch.ones(1, 1)
    assert native.rms_norm(one, gain, 0.0, torch.bfloat16)[0].isnan().all()
    assert native.rms_norm(gain[None], one[0], 0.0, torch.bfloat16)[0].isnan().all()
    gains, angles, layout = (
        gain.expand(2, 2).contiguous(),
        (torch.ones(1, 2), torch.zeros(1, 2)),
        HeadLayout(1, 1, 1, 2),
    )
    qkv_rows = torch.ones(1, 6, dtype=torch.bfloat16)
    qkv, inverse = native.split_heads(qkv_rows, gains, angles, 1e-6, layout)
    assert qkv[:2].isnan().all()
    assert native.split_heads_backward(qkv, qkv_rows, gains, inverse, angles, layout)[0][:, :4].isnan().all()


def test_unsupported_inputs_are_rejected():
    x, gain = random_tensor(4, 8), random_tensor(8)
    for wrong in (gain.double(), random_tensor(16)[::2], gain.half()):
        with pytest.raises(TypeError, match="rms_norm_forward in C cannot take"):
            native.rms_norm(x, wrong, 1e-6, torch.float32)
    assert not native.supports(x.double(), torch.float64)
    assert not native.supports(x, torch.float16)
    assert not native.supports(torch.ones(2, 2, device="meta"), torch.float32)


def test_thread_counts_agree_and_results_repeat(monkeypatch):
    x, gain, grad_y = random_tensor(7, 33), random_tensor(33, seed=1), random_tensor(7, 33, seed=2)
    results = []
    for threads in (1, 2, 5, 16):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        repeated = []
        for _ in range(2):
            y, inverse = native.rms_norm(x, gain, 1e-6, torch.float32)
            repeated.append((y, *native.rms_norm_backward(grad_y, x, gain, inverse, None)))
        assert all(torch.equal(one, other) for one, other in zip(*repeated, strict=True))
        results.append(repeated[0])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_training_uses_c_and_repeats_bitwise(prose, monkeypatch):
    called = []
    real = native.call
    monkeypatch.setattr(native, "call", lambda name, *rest, **more: called.append(name) or real(name, *rest, **more))
    separate = {
        *("rms_norm_forward", "rms_norm_backward", "split_heads_forward", "split_heads_backward"),
        *("causal_softmax_forward", "causal_softmax_backward", "swiglu_forward", "swiglu_backward"),
    }
    fused = separate - {"causal_softmax_forward", "causal_softmax_backward"}
    fused |= {"attention_forward", "attention_backward"}
    for precision, sizes in (("float32", {}), ("bfloat16", {}), ("bfloat16", {"width": 64})):
        called.clear()
        final_weights = []
        for _ in range(2):
            trainer = make_trainer(prose, small(**sizes), precision=precision)
            for _ in range(3):
                trainer.step()
            final_weights.append(torch.cat([p.detach().flatten() for p in trainer.network.parameters()]))
        assert torch.equal(*final_weights)
        assert set(called) == (fused if sizes and HAS_BFLOAT16_PAIRS else separate)


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("autocast", [True, False])
def test_gradients_are_as_accurate_as_torch(autocast, width, monkeypatch):
    plain = Transformer(small(context=150, width=width), 16)
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    fast = copy.deepcopy(plain)
    accelerate(fast)
    tokens = torch.randint(16, (2, 150), generator=torch.Generator().manual_seed(0))

    def gradient(network):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and network.output.weight.dtype == torch.float32):
            output = network(tokens).logits_BTV
        F.cross_entropy(
            output.to(torch.promote_types(output.dtype, torch.float32)).flatten(0, 1), tokens.flatten()
        ).backward()
        return torch.cat([p.grad.flatten().double() for p in network.parameters()])

    in_c = gradient(fast)
    monkeypatch.setattr(native, "supports", lambda *_: False)
    in_torch = gradient(fast)
    composed = gradient(plain)
    exact = gradient(plain.double())
    errors = [float((one - exact).norm() / exact.norm()) for one in (in_c, in_torch, composed)]
    assert errors[0] < 1.5 * errors[2] + 1e-6
    assert errors[1] < 1.5 * errors[2] + 1e-6


def test_sources_are_in_the_package():
    for file in (file for sources in build.LIBRARIES for file in sources):
        assert file.is_file()
        assert file.is_relative_to(Path(charladder.__file__).parent)


PROCESSORS = ("x86-64", "haswell", "skylake-avx512", "cooperlake", "sapphirerapids")  # from SSE2 to AMX
FAST_SUBSET = ("sapphirerapids",)  # tested without --slow: the largest instruction set
C_FILES = sorted(Path(charladder.__file__).parent.rglob("*.c"))


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86 compiler")
@pytest.mark.parametrize("dtype_flags", [(), ("-DBFLOAT16",)], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "processor", [one if one in FAST_SUBSET else pytest.param(one, marks=pytest.mark.slow) for one in PROCESSORS]
)
def test_sources_compile_for_every_processor(processor, dtype_flags):
    """On a machine whose variant does not compile, the library silently uses torch instead of C."""
    options = ("-I", str(build.CSRC), "-Wall", "-Werror", "-Wno-unused-function", "-Wno-unknown-pragmas")
    flags = (f"-march={processor}", "-O1", "-fopenmp", "-c", "-o", "/dev/null")
    probe = subprocess.run([str(COMPILER), *flags, "-x", "c", "/dev/null"], capture_output=True)
    if probe.returncode:
        pytest.skip(f"this compiler does not know {processor}")
    for file in C_FILES:
        result = subprocess.run(
            [str(COMPILER), *flags, *dtype_flags, *options, str(file)], capture_output=True, text=True
        )
        assert not result.returncode, result.stderr


HAS_BFLOAT16_PAIRS = native.library(torch.bfloat16) is not None and native.has_attention(
    torch.zeros(3, 1, 1, 32, dtype=torch.bfloat16)
)
needs_bfloat16_pairs = pytest.mark.skipif(not HAS_BFLOAT16_PAIRS, reason="needs AVX-512 BF16 without AMX")


def random_heads(layout, scale=1.0):
    B, T, H, E = layout
    return random_tensor(3, B * H, T, E, dtype=torch.bfloat16) * scale, random_tensor(
        B * T, H * E, seed=1, dtype=torch.bfloat16
    )


@needs_bfloat16_pairs
@pytest.mark.parametrize("scale", [0.3, 3.0])
@pytest.mark.parametrize(
    "layout",
    [
        HeadLayout(1, 2, 1, 32),
        HeadLayout(2, 33, 3, 32),
        HeadLayout(2, 100, 3, 64),
        HeadLayout(1, 129, 2, 128),
        HeadLayout(1, 512, 1, 96),
    ],
)
def test_attention(layout, scale):
    qkv, grad_y = random_heads(layout, scale)
    y, log_sum_exp = native.attention(qkv, layout)
    exact = qkv.double().requires_grad_()
    score = exact[0] @ exact[1].mT
    score = score.masked_fill(torch.ones(score.shape[1:], dtype=torch.bool).triu(1), float("-inf"))
    exact_y = causal_attention.merge_heads(score.softmax(-1) @ exact[2], layout)
    exact_y.backward(grad_y.double())
    assert_close_to_float64((y,), (exact_y.detach(),), torch.bfloat16)
    torch.testing.assert_close(log_sum_exp.double(), score.detach().logsumexp(-1), rtol=1e-5, atol=1e-5)
    grad_qkv = native.attention_backward(grad_y, qkv, y, log_sum_exp, layout)
    for actual, expected in zip(grad_qkv, exact.grad, strict=True):
        # Relative to all gradients: for two characters, those of query and key are differences of nearly equal
        # numbers.
        assert float((actual.double() - expected).norm()) < 8e-3 * float(exact.grad.norm())


@needs_bfloat16_pairs
def test_attention_is_more_accurate_than_the_reference():
    layout = HeadLayout(2, 200, 2, 64)
    qkv, grad_y = random_heads(layout)
    exact = qkv.double()
    exact_y, exact_saved = causal_attention.attention(reference, exact, layout)
    expected = causal_attention.attention_backward(reference, grad_y.double(), exact, exact_y, exact_saved, layout)
    y, log_sum_exp = native.attention(qkv, layout)
    fused = native.attention_backward(grad_y, qkv, y, log_sum_exp, layout)
    y, saved = causal_attention.attention(reference, qkv, layout)
    composed = causal_attention.attention_backward(reference, grad_y, qkv, y, saved, layout)
    for index in range(3):
        assert (fused[index] - expected[index]).norm() < (composed[index] - expected[index]).norm()


@needs_bfloat16_pairs
@pytest.mark.parametrize("layout", [HeadLayout(1, 70, 3, 32), HeadLayout(3, 130, 1, 64)])
def test_attention_does_not_depend_on_threads_or_other_heads(layout):
    qkv, grad_y = random_heads(layout)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        y, log_sum_exp = native.attention(qkv, layout)
        results.append((y, log_sum_exp, native.attention_backward(grad_y, qkv, y, log_sum_exp, layout)))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    B, T, H, E = layout
    one = HeadLayout(1, T, 1, E)
    alone = native.attention(qkv[:, -1:].contiguous(), one)
    assert torch.equal(alone[0], results[0][0].view(B, T, H, E)[-1, :, -1])
    grad_alone = native.attention_backward(
        grad_y.view(B, T, H, E)[-1, :, -1].contiguous(), qkv[:, -1:].contiguous(), *alone, one
    )
    assert torch.equal(grad_alone, results[0][2][:, -1:])


@needs_bfloat16_pairs
def test_attention_is_causal_and_propagates_nan():
    layout = HeadLayout(1, 90, 1, 32)
    qkv, grad_y = random_heads(layout)
    y, _ = native.attention(qkv, layout)
    changed = qkv.clone()
    changed[:, :, 61:] = 5.0
    assert torch.equal(native.attention(changed, layout)[0][:61], y[:61])
    changed[:, :, 61:] = float("nan")
    y_nan, log_sum_exp_nan = native.attention(changed, layout)
    assert y_nan[61:].isnan().all()
    assert torch.equal(y_nan[:32], y[:32])  # rows 32 to 60 share a block with the NaN, and 0 times NaN is NaN
    assert native.attention_backward(grad_y, changed, y_nan, log_sum_exp_nan, layout)[0, :, 61:].isnan().all()
