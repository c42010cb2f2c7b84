"""One block against a plain reimplementation: both norm placements, with and without dropout."""

import math

import pytest
import torch

from charladder.model import Dropout, Transformer
from charladder.model.block import Block
from helpers import small

PAPER = [small(block="paper", norm_placement=placement) for placement in ("pre", "post")]


def random_block(settings) -> Block:
    block = Block(settings).double()
    with torch.no_grad():
        for seed, parameter in enumerate(block.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            parameter.copy_(0.3 * noise)
    return block


def layer_norm(x: torch.Tensor, norm) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def attention(x: torch.Tensor, a, heads: int, dropout) -> torch.Tensor:
    B, T, D = x.shape
    q, k, v = ((x @ m.weight.T + m.bias).view(B, T, heads, -1).transpose(1, 2) for m in (a.query, a.key, a.value))
    score = q @ k.transpose(-2, -1) / math.sqrt(D / heads) + torch.full((T, T), -math.inf).triu(1)
    mixed = (dropout(score.softmax(-1)) @ v).transpose(1, 2).reshape(B, T, D)
    return mixed @ a.output.weight.T + a.output.bias


def feed_forward(x: torch.Tensor, f, dropout) -> torch.Tensor:
    return dropout((x @ f.up.weight.T + f.up.bias).clamp(min=0)) @ f.down.weight.T + f.down.bias


def reference(x: torch.Tensor, block: Block, settings, dropout: Dropout | None = None) -> torch.Tensor:
    """Pre-norm: x + f(norm(x)). Post-norm (Vaswani et al. 2017): norm(x + f(x))."""
    masks = [(lambda y: y) if dropout is None else dropout.fold_in(index) for index in (1, 2)]
    one, two = block.attention_norm, block.feed_forward_norm
    heads = settings.attention_heads
    if settings.norm_placement == "pre":
        x = x + attention(layer_norm(x, one), block.attention, heads, masks[0])
        return x + feed_forward(layer_norm(x, two), block.feed_forward, masks[1])
    x = layer_norm(x + attention(x, block.attention, heads, masks[0]), one)
    return layer_norm(x + feed_forward(x, block.feed_forward, masks[1]), two)


@pytest.mark.parametrize("settings", PAPER, ids=["pre", "post"])
@pytest.mark.parametrize("rate", [0.0, 0.4])
@torch.no_grad()
def test_paper_block_equals_the_reference(settings, rate):
    block = random_block(settings)
    x = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    dropout = Dropout(rate, torch.tensor([3, 4])) if rate else None
    torch.testing.assert_close(
        block(x, None, None, dropout), reference(x, block, settings, dropout), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("block", ["paper", "modern"])
@pytest.mark.parametrize("placement", ["pre", "post"])
@torch.no_grad()
def test_dropout_with_rate_near_zero_changes_nothing(block, placement):
    model = Transformer(small(block=block, norm_placement=placement), 256).double()
    for seed, parameter in enumerate(model.parameters()):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        parameter.add_(0.2 * noise)
    x = torch.randint(0, 256, (2, 16), generator=torch.Generator().manual_seed(1))
    almost_none = Dropout(1e-12, torch.tensor([3, 4]))
    torch.testing.assert_close(model(x, dropout=almost_none).logits_BTV, model(x).logits_BTV, rtol=1e-8, atol=1e-8)


@torch.no_grad()
def test_every_dropout_has_its_own_mask():
    """Layer l folds in l and then 1 or 2. Changing this would change the results of every seed."""
    drawn = []

    class RecordingDropout(Dropout):
        def fold_in(self, index):
            return RecordingDropout(self.rate, super().fold_in(index).keys_B)

        def __call__(self, x):
            drawn.append((tuple(x.shape[1:]), self.keys_B.tolist()))
            return x

    model, keys = Transformer(small(block="paper"), 256), torch.tensor([7])
    model(torch.zeros(1, 16, dtype=torch.long), dropout=RecordingDropout(0.5, keys))
    expected = []
    for layer in range(3):
        for index, shape in ((1, (2, 16, 16)), (2, (16, 64))):
            expected.append((shape, Dropout(0.5, keys).fold_in(layer).fold_in(index).keys_B.tolist()))
    assert drawn == expected


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("block", ["modern", "paper"])
@pytest.mark.parametrize("initialisation", ["normal", "scaled", "xavier"])
@pytest.mark.parametrize("positions", ["tables", "sinusoidal"])
@torch.no_grad()
def test_standard_deviations_at_initialisation(positions, initialisation, block, placement):
    """The same for both placements of the norm. Means are 0; gains are 1, and biases 0."""
    L, D, F, V = 4, 256, 512, 256
    settings = small(
        layers=L, width=D, feed_forward=F, attention_heads=4, context=256,
        block=block, positions=positions, norm_placement=placement, initialisation=initialisation,
    )  # fmt: skip
    inside, last = (0.02, 0.02 / math.sqrt(2 * L)) if initialisation == "normal" else (1 / math.sqrt(D), 0.0)
    expected = {
        "embedding.weight": 0.02 if initialisation == "normal" and positions == "tables" else 0.5,
        "tables": 0.02,
        "output.weight": 0.1 / math.sqrt(D),
        "attention.output.weight": last,
        "feed_forward.down.weight": last,
    }
    if initialisation == "xavier":
        feed_forward = ("feed_forward.up.weight", "feed_forward.gate.weight", "feed_forward.down.weight")
        expected |= {"embedding.weight": 1.0, "attention.output.weight": 1 / math.sqrt(D)}
        expected |= dict.fromkeys(feed_forward, math.sqrt(2 / (D + F)))
    for name, parameter in Transformer(settings, V, seed=3).named_parameters():
        if parameter.ndim == 1:
            assert (parameter == (1 if "norm" in name and name.endswith("weight") else 0)).all(), name
            continue
        short = "tables" if name.startswith("tables") else name.split(".", 2)[-1] if "blocks" in name else name
        sd, n = expected.get(short, inside), parameter.numel()
        assert float(parameter.std()) == pytest.approx(sd, rel=5 / math.sqrt(2 * n)), name
        assert abs(float(parameter.mean())) <= 5 * sd / math.sqrt(n), name
