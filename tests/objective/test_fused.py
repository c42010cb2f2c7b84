"""The steps between classifiers' products as torch's compiler takes them: what they are without it."""

import pytest
import torch

from charladder.auxiliary.cross_entropy import TORCH_OPERATIONS
from charladder.objective.cross_entropy_kernels import CompiledOperations

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch\\._inductor"),  # of what would be faster
]
WAYS = [("cpu", "aot_eager")]
if torch.cuda.is_available():
    WAYS.append(("cuda", "inductor"))


@pytest.fixture(params=WAYS, ids=str)
def way(request):
    torch.compiler.reset()
    yield request.param
    torch.compiler.reset()


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows, classifiers, symbols", [(1, 1, 2), (5, 3, 27), (200, 2, 256)])
def test_compiled_operations_equal_torch(way, rows, classifiers, symbols, products):
    device, backend = way
    generator = torch.Generator().manual_seed(0)
    x = (3 + 2 * torch.randn(rows, 33, generator=generator)).to(device)
    of = torch.randn(rows, 33, generator=generator).to(device, products)
    logits = (3 * torch.randn(rows, classifiers * symbols, generator=generator)).to(device, products)
    targets = torch.randint(symbols, (rows, classifiers), generator=generator).to(device)
    targets[1::3, -1] = -100
    weights = torch.linspace(0.5, 2.0, classifiers, device=device)
    fused, rough = CompiledOperations(backend), 2e-6 if products == torch.float32 else 4e-3
    y, moments = fused.normalize(x, products)
    exact, exact_moments = TORCH_OPERATIONS.normalize(x.double(), torch.float64)
    back = fused.normalize_backward(of, x, moments)
    slopes, losses = fused.losses_and_gradient(logits.clone(), targets, weights)
    assert (y.dtype, back.dtype, slopes.dtype, losses.dtype) == (products, products, products, torch.float32)
    judges = TORCH_OPERATIONS.losses_and_gradient(logits.double(), targets, weights.double())
    torch.testing.assert_close(slopes.double(), judges[0], rtol=2 * rough, atol=1e-6)
    for mine, judge in (
        (y, exact),
        (back, TORCH_OPERATIONS.normalize_backward(of.double(), x.double(), exact_moments)),
    ):
        assert float((mine.double() - judge).norm()) <= 2 * rough * float(judge.norm())
    torch.testing.assert_close(losses.double(), judges[1], rtol=1e-6, atol=1e-6)
