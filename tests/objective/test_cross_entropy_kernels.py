"""The operations between the matrix products of classifiers in C agree with torch in float64."""

import math

import pytest
import torch
from torch import nn

from charladder.auxiliary import AuxiliaryError, cross_entropy, linear_cross_entropy
from charladder.auxiliary.cross_entropy import TORCH_OPERATIONS
from charladder.kernels import native
from charladder.objective import ObjectiveConfig, language_model
from charladder.objective.cross_entropy_kernels import NATIVE_OPERATIONS, SOURCES, choose_operations
from helpers import make_trainer

DTYPES = [torch.float32, torch.bfloat16]
pytestmark = pytest.mark.skipif(native.library(torch.float32, SOURCES) is None, reason="needs a C compiler")


def random_tensor(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_close_to_float64(actual, expected):
    relative = float((actual.double() - expected).norm() / expected.norm())
    assert relative < (2e-6 if actual.dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, width", [(1, 3), (7, 33), (129, 64), (500, 130)])
def test_normalize_equals_torch(rows, width, dtype):
    x, grad_y = 3 + 2 * random_tensor(rows, width), random_tensor(rows, width, seed=1, dtype=dtype)
    y, moments = NATIVE_OPERATIONS.normalize(x, dtype)
    exact, exact_moments = TORCH_OPERATIONS.normalize(x.double(), torch.float64)
    assert y.dtype == dtype
    assert_close_to_float64(y, exact)
    actual = NATIVE_OPERATIONS.normalize_backward(grad_y, x, moments)
    assert actual.dtype == dtype
    expected = TORCH_OPERATIONS.normalize_backward(grad_y.double(), x.double(), exact_moments)
    assert float((actual.double() - expected).norm()) <= (4e-6 if dtype == torch.float32 else 4e-3) * float(
        expected.norm()
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, classifiers, symbols", [(1, 1, 2), (5, 3, 27), (200, 2, 256)])
def test_losses_and_gradients_equal_torch(rows, classifiers, symbols, dtype):
    logits = 3 * random_tensor(rows, classifiers * symbols, dtype=dtype)
    targets = torch.randint(symbols, (rows, classifiers), generator=torch.Generator().manual_seed(1))
    weights = torch.linspace(0.5, 2.0, classifiers)
    expected = TORCH_OPERATIONS.losses_and_gradient(logits.double(), targets, weights.double())
    gradient, losses = NATIVE_OPERATIONS.losses_and_gradient(logits.clone(), targets, weights)
    assert_close_to_float64(gradient, expected[0])
    torch.testing.assert_close(losses.double(), expected[1], rtol=1e-6, atol=1e-6)


def test_large_and_non_finite_logits():
    logits = torch.tensor([[3e38, -3e38, 0.0], [0.0, math.nan, 0.0], [0.0, 0.0, math.inf]])
    results = [
        NATIVE_OPERATIONS.losses_and_gradient(row[None].clone(), torch.tensor([[target]]), torch.ones(1))
        for row, target in zip(logits, (0, 0, 2), strict=True)
    ]
    assert results[0][0].tolist() == [[0.0, 0.0, 0.0]]
    assert results[0][1].item() == 0.0
    for gradient, losses in results[1:]:
        assert gradient.isnan().any()
        assert losses.isnan().all()


def test_very_negative_logits():
    logits, targets = torch.tensor([[-702.0, -700.0, -701.0]]), torch.tensor([[2]])
    gradient, losses = NATIVE_OPERATIONS.losses_and_gradient(logits.clone(), targets, torch.ones(1))
    expected = TORCH_OPERATIONS.losses_and_gradient(logits.double(), targets, torch.ones(1).double())
    assert_close_to_float64(gradient, expected[0])
    assert losses.item() == pytest.approx(expected[1].item(), rel=1e-6)


def test_small_loss_of_large_logits():
    _, losses = NATIVE_OPERATIONS.losses_and_gradient(
        torch.tensor([[10000.0, 9990.0]]), torch.zeros(1, 1, dtype=torch.long), torch.ones(1)
    )
    assert losses.item() == pytest.approx(math.log1p(math.exp(-10)), rel=1e-3)


@pytest.mark.parametrize("target", [-101, -1, 5])
def test_invalid_targets_are_rejected(target):
    with pytest.raises(AuxiliaryError, match=f"got the target {target}; targets are classes from 0 to 4"):
        NATIVE_OPERATIONS.losses_and_gradient(torch.zeros(2, 10), torch.tensor([[0, -100], [2, target]]), torch.ones(2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_ignored_targets_have_no_loss_and_no_gradient(dtype):
    logits = 3 * random_tensor(40, 3 * 27, dtype=dtype)
    logits[5] = math.inf
    targets = torch.randint(27, (40, 3), generator=torch.Generator().manual_seed(1))
    targets[5] = targets[::7, 1] = -100
    weights = torch.linspace(0.5, 2.0, 3)
    expected = TORCH_OPERATIONS.losses_and_gradient(logits.double(), targets, weights.double())
    gradient, losses = NATIVE_OPERATIONS.losses_and_gradient(logits.clone(), targets, weights)
    assert_close_to_float64(gradient, expected[0])
    torch.testing.assert_close(losses.double(), expected[1], rtol=1e-6, atol=1e-6)
    ignored = gradient.view(40, 3, 27)[targets == -100]
    assert ignored.shape == (9, 27) and not ignored.any()


def test_non_finite_values_stay_in_their_row():
    x = torch.ones(2, 40)
    x[1, 7] = math.nan
    y, _ = NATIVE_OPERATIONS.normalize(x, torch.bfloat16)
    assert torch.isfinite(y[0]).all()
    assert y[1].isnan().all()


def test_native_operations_are_chosen_for_supported_dtypes():
    assert choose_operations(torch.ones(2, 3)) is NATIVE_OPERATIONS
    with torch.autocast("cpu", torch.bfloat16):
        assert choose_operations(torch.ones(2, 3)) is NATIVE_OPERATIONS
    with torch.autocast("cpu", torch.float16):
        assert choose_operations(torch.ones(2, 3)) is TORCH_OPERATIONS
    assert choose_operations(torch.ones(2, 3).double()) is TORCH_OPERATIONS


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("rows", [50, 1024])
@pytest.mark.parametrize("last", [False, True])
def test_linear_cross_entropy_equals_torch(autocast, rows, last, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CPU_ROWS_PER_CHUNK", rows)
    classifiers = [nn.Linear(24, 50) for _ in range(2)]
    targets = [torch.randint(50, (3, 40), generator=torch.Generator().manual_seed(k)) for k in range(2)]
    results = []
    for operations in (TORCH_OPERATIONS, NATIVE_OPERATIONS):
        leaf = random_tensor(3, 41, 24).requires_grad_()
        hidden = leaf[:, 1:]  # not contiguous
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            selected_hidden, selected_targets = (
                (hidden[:, -1:], [t[:, -1:] for t in targets]) if last else (hidden, targets)
            )
            losses = linear_cross_entropy(selected_hidden, classifiers, selected_targets, [1.0, 0.5], True, operations)
        leaves = [leaf, *(p for classifier in classifiers for p in classifier.parameters())]
        results.append(
            [*(loss.detach() for loss in losses), *torch.autograd.grad((losses[0] + 0.5 * losses[1]) / 120, leaves)]
        )
    for actual, expected in zip(*results, strict=True):
        assert float((actual - expected).norm() / expected.norm()) < (1e-2 if autocast else 1e-5)


@pytest.mark.parametrize("positions", ["all", "last"])
def test_training_with_native_operations_equals_torch(positions, monkeypatch):
    monkeypatch.setattr(language_model, "MAX_LOGIT_BYTES", 0)
    totals = []
    for operations in (TORCH_OPERATIONS, NATIVE_OPERATIONS):
        chosen = []
        monkeypatch.setattr(
            language_model,
            "choose_operations",
            lambda hidden, operations=operations, chosen=chosen: chosen.append(1) or operations,
        )
        objective = ObjectiveConfig(positions=positions)
        trainer = make_trainer(b"the ladder has many layers, every layer can be asked. " * 40, None, objective, steps=8)
        totals.append([float(trainer.step().report.total) for _ in range(8)])
        assert chosen
    assert totals[1] == pytest.approx(totals[0], rel=1e-4)
    assert totals[0] != [totals[0][0]] * 8


def test_result_does_not_depend_on_the_number_of_threads():
    results, before = [], torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        y, moments = NATIVE_OPERATIONS.normalize(random_tensor(50, 33), torch.bfloat16)
        grad_x = NATIVE_OPERATIONS.normalize_backward(
            random_tensor(50, 33, seed=1, dtype=torch.bfloat16), random_tensor(50, 33), moments
        )
        gradient = NATIVE_OPERATIONS.losses_and_gradient(
            random_tensor(50, 14), torch.ones(50, 2, dtype=torch.long), torch.ones(2)
        )
        results.append([y, grad_x, *gradient])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
