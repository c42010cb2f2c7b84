"""The three auxiliary losses of Al-Rfou et al. 2018 ("Character-Level Language Modeling with Deeper Self-Attention") on
a transformer of ten lines that predicts the next character of the source text of Python's `argparse`.

1. Multiple positions: the model predicts the next character after every character of a window, not only the last.
2. Intermediate layers: every layer predicts, with its own head. Layer l of n is inactive (weight 0) after l/(2n) of
   training, the lowest first; in the second half of training only the last layer has losses.
3. Multiple targets: every layer that predicts also predicts the character after the next, at half the weight.

Each prediction is a term with a name: `layer2.target1` is the next character, predicted by layer 2, and `main` the next
character, predicted by the last layer.

    pip install "charladder[examples]"
    python examples/three_losses.py
"""

import argparse
import inspect

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charladder import auxiliary as aux

LENGTH, WIDTH, LAYERS, TARGETS = 64, 64, 4, 2


class Transformer(nn.Module):
    def __init__(self, symbols: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.symbols, self.places = nn.Embedding(symbols, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.output = nn.Linear(WIDTH, symbols)

    def forward(self, x: Tensor) -> Tensor:  # (B, T) to (B, T, symbols)
        past = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.output(self.encoder(self.symbols(x) + self.places.weight[: x.shape[1]], past, is_causal=True))


def every_position(logits: Tensor, targets: Tensor) -> Tensor:
    """(B, T, symbols) and (B, T): a loss for each of the B * T predictions. The library takes the mean."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")


def make_objective(model: nn.Module, symbols: int) -> aux.Objective:
    auxiliary, heads = {}, aux.heads.normed(symbols)  # a factory: every term gets a new head
    for offset in range(1, TARGETS + 1):
        # Fields of all these terms. The weight is the paper's for layers times the paper's for targets.
        common = {"target": offset, "weight": "al_rfou", "offset": offset, "offsets": TARGETS, "head": heads}
        layers = aux.intermediate_terms(model, "encoder.layers.*", every_position, **common)
        auxiliary |= {f"{name}.target{offset}": term for name, term in layers.items()}
        if offset > 1:  # the last layer has the main loss for the next character, and a term for the others
            last = aux.Term(every_position, tap=f"encoder.layers.{LAYERS - 1}", layer=LAYERS, layers=LAYERS, **common)
            auxiliary[f"layer{LAYERS}.target{offset}"] = last
    return aux.Objective(aux.Term(every_position, target=1), auxiliary, model=model)


def windows(text: Tensor, count: int) -> tuple[Tensor, dict[int, Tensor]]:
    """Windows of characters, and their targets by offset."""
    starts = torch.randint(len(text) - LENGTH - TARGETS, (count, 1))
    inputs = starts + torch.arange(LENGTH)
    return text[inputs], {offset: text[inputs + offset] for offset in range(1, TARGETS + 1)}


def main(steps: int = 160) -> dict[str, dict[str, float]]:
    torch.manual_seed(0)
    source = inspect.getsource(argparse)
    alphabet = sorted(set(source))
    text = torch.tensor([alphabet.index(character) for character in source])
    model = Transformer(len(alphabet))
    objective = make_objective(model, len(alphabet)).build(model, text[None, :LENGTH])
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=3e-3)

    first, last, inactive = {}, {}, {}
    for step in range(steps):
        inputs, targets = windows(text, 8)
        report = objective(model, inputs, targets, progress=step / steps)
        optimizer.zero_grad()
        report.total.backward()
        optimizer.step()
        last = {name: term.bits for name, term in report.terms.items()}
        first = first or last
        for name in first:
            if name not in last:
                inactive.setdefault(name, step)

    print(f"{len(source)} characters, {len(alphabet)} symbols; bits per character of each term, weight at the start")
    print("  term            weight  first step  last step")
    start = objective.weights(progress=0.0)
    for name in first:
        end = f"{last[name]:.2f}" if name in last else f"inactive since step {inactive[name]}"
        print(f"  {name:15} {start[name]:6g}  {first[name]:10.2f}  {end:>9}")
    return {"first": first, "last": last, "inactive": inactive}


if __name__ == "__main__":
    main()
