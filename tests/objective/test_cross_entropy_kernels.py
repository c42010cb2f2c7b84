"""The steps between classifiers' products in C: what the same steps give with torch in float64."""

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

PRODUCTS = [torch.float32, torch.bfloat16]
pytestmark = pytest.mark.skipif(
    native.library(torch.float32, SOURCES) is None, reason="no C compiler here, or not Linux: nothing to test"
)


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def near(mine, judge):
    relative = float((mine.double() - judge).norm() / judge.norm())
    assert relative < (2e-6 if mine.dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("rows, width", [(1, 3), (7, 33), (129, 64), (500, 130)])
def test_normalize_equals_torch(rows, width, products):
    x, of = 3 + 2 * draw(rows, width), draw(rows, width, seed=1, dtype=products)
    y, moments = NATIVE_OPERATIONS.normalize(x, products)
    exact, exact_moments = TORCH_OPERATIONS.normalize(x.double(), torch.float64)
    assert y.dtype == products
    near(y, exact)
    mine = NATIVE_OPERATIONS.normalize_backward(of, x, moments)
    assert mine.dtype == products
    judge = TORCH_OPERATIONS.normalize_backward(of.double(), x.double(), exact_moments)
    assert float((mine.double() - judge).norm()) <= (4e-6 if products == torch.float32 else 4e-3) * float(judge.norm())


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("rows, classifiers, symbols", [(1, 1, 2), (5, 3, 27), (200, 2, 256)])
def test_losses_and_gradients_equal_torch(rows, classifiers, symbols, products):
    logits = 3 * draw(rows, classifiers * symbols, dtype=products)
    targets = torch.randint(symbols, (rows, classifiers), generator=torch.Generator().manual_seed(1))
    weights = torch.linspace(0.5, 2.0, classifiers)
    judge = TORCH_OPERATIONS.losses_and_gradient(logits.double(), targets, weights.double())
    slopes, losses = NATIVE_OPERATIONS.losses_and_gradient(logits.clone(), targets, weights)
    near(slopes, judge[0])
    torch.testing.assert_close(losses.double(), judge[1], rtol=1e-6, atol=1e-6)


def test_large_and_non_finite_logits():
    logits = torch.tensor([[3e38, -3e38, 0.0], [0.0, math.nan, 0.0], [0.0, 0.0, math.inf]])
    found = [
        NATIVE_OPERATIONS.losses_and_gradient(row[None].clone(), torch.tensor([[target]]), torch.ones(1))
        for row, target in zip(logits, (0, 0, 2), strict=True)
    ]
    assert found[0][0].tolist() == [[0.0, 0.0, 0.0]]
    assert found[0][1].item() == 0.0
    for slopes, losses in found[1:]:
        assert slopes.isnan().any()
        assert losses.isnan().all()


def test_logits_that_are_all_far_below_zero():
    logits, targets = torch.tensor([[-702.0, -700.0, -701.0]]), torch.tensor([[2]])
    slopes, losses = NATIVE_OPERATIONS.losses_and_gradient(logits.clone(), targets, torch.ones(1))
    judge = TORCH_OPERATIONS.losses_and_gradient(logits.double(), targets, torch.ones(1).double())
    near(slopes, judge[0])
    assert losses.item() == pytest.approx(judge[1].item(), rel=1e-6)


def test_a_small_loss_of_large_logits_is_not_lost():
    _, losses = NATIVE_OPERATIONS.losses_and_gradient(
        torch.tensor([[10000.0, 9990.0]]), torch.zeros(1, 1, dtype=torch.long), torch.ones(1)
    )
    assert losses.item() == pytest.approx(math.log1p(math.exp(-10)), rel=1e-3)


@pytest.mark.parametrize("target", [-101, -1, 5])
def test_targets_outside_the_alphabet_are_refused(target):
    with pytest.raises(AuxiliaryError, match=f"got the target {target}; targets are classes from 0 to 4"):
        NATIVE_OPERATIONS.losses_and_gradient(torch.zeros(2, 10), torch.tensor([[0, -100], [2, target]]), torch.ones(2))


@pytest.mark.parametrize("products", PRODUCTS)
def test_ignored_targets_have_no_loss_and_no_gradient(products):
    logits = 3 * draw(40, 3 * 27, dtype=products)
    logits[5] = math.inf
    targets = torch.randint(27, (40, 3), generator=torch.Generator().manual_seed(1))
    targets[5] = targets[::7, 1] = -100
    weights = torch.linspace(0.5, 2.0, 3)
    judge = TORCH_OPERATIONS.losses_and_gradient(logits.double(), targets, weights.double())
    slopes, losses = NATIVE_OPERATIONS.losses_and_gradient(logits.clone(), targets, weights)
    near(slopes, judge[0])
    torch.testing.assert_close(losses.double(), judge[1], rtol=1e-6, atol=1e-6)
    ignored = slopes.view(40, 3, 27)[targets == -100]
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


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("rows", [50, 1024])
@pytest.mark.parametrize("last", [False, True])
def test_losses_and_gradients_are_those_of_torch(half, rows, last, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CPU_ROWS_PER_CHUNK", rows)
    classifiers = [nn.Linear(24, 50) for _ in range(2)]
    targets = [torch.randint(50, (3, 40), generator=torch.Generator().manual_seed(k)) for k in range(2)]
    found = []
    for steps in (TORCH_OPERATIONS, NATIVE_OPERATIONS):
        leaf = draw(3, 41, 24).requires_grad_()
        hidden = leaf[:, 1:]  # and not contiguous
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            read, wanted = (hidden[:, -1:], [t[:, -1:] for t in targets]) if last else (hidden, targets)
            losses = linear_cross_entropy(read, classifiers, wanted, [1.0, 0.5], True, steps)
        leaves = [leaf, *(p for one in classifiers for p in one.parameters())]
        found.append(
            [*(loss.detach() for loss in losses), *torch.autograd.grad((losses[0] + 0.5 * losses[1]) / 120, leaves)]
        )
    for mine, theirs in zip(*found, strict=True):
        assert float((mine - theirs).norm() / theirs.norm()) < (1e-2 if half else 1e-5)


@pytest.mark.parametrize("positions", ["all", "last"])
def test_training_with_native_operations_equals_torch(positions, monkeypatch):
    monkeypatch.setattr(language_model, "MAX_LOGIT_BYTES", 0)
    totals = []
    for steps in (TORCH_OPERATIONS, NATIVE_OPERATIONS):
        taken = []
        monkeypatch.setattr(
            language_model, "choose_operations", lambda hidden, steps=steps, taken=taken: taken.append(1) or steps
        )
        objective = ObjectiveConfig(positions=positions)
        trainer = make_trainer(b"the ladder has many layers, every layer can be asked. " * 40, None, objective, steps=8)
        totals.append([float(trainer.step().report.total) for _ in range(8)])
        assert taken
    assert totals[1] == pytest.approx(totals[0], rel=1e-4)
    assert totals[0] != [totals[0][0]] * 8


def test_result_does_not_depend_on_the_number_of_threads():
    found, before = [], torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        y, moments = NATIVE_OPERATIONS.normalize(draw(50, 33), torch.bfloat16)
        back = NATIVE_OPERATIONS.normalize_backward(draw(50, 33, seed=1, dtype=torch.bfloat16), draw(50, 33), moments)
        slopes = NATIVE_OPERATIONS.losses_and_gradient(draw(50, 14), torch.ones(50, 2, dtype=torch.long), torch.ones(2))
        found.append([y, back, *slopes])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
