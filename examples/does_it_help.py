"""Does an auxiliary loss help? Asked of two models over five seeds, with `charladder.studies`.

1. A plain convolutional network of eight layers, without residual connections, on scikit-learn's handwritten digits.
   The auxiliary losses are classifiers on its second and fourth layer.
2. A small BERT encoder with random weights that reads the same digits row by row: the eight pixels of a row, each light
   or dark, are the eight bits of a token. The auxiliary losses are classifiers on its two lower layers.

Both arms get the same tuning: the learning rate of an arm is the one of three with the lowest loss on the images for
validation, over two seeds that are not used again. Then five seeds of each arm are compared on the test images. The
arms of a seed begin with the same weights and see the same batches.

Finished runs are kept in the folder studies/ and not repeated.

    pip install "charladder[examples,study]"
    python examples/does_it_help.py
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from charladder import auxiliary as aux
from charladder import studies

RATES = 1e-3, 3e-3, 1e-2
TUNING_SEEDS = 100, 101
SEEDS = 0, 1, 2, 3, 4
EFFECT = 0.05  # nats of the test loss, chosen before the runs
ARMS = {"none": {"weight": 0.0}, "aux": {"weight": 0.3}}
START = 257  # the token whose hidden state is classified; rows are the tokens 1 to 256, and 0 is BERT's padding


@dataclasses.dataclass(frozen=True)
class Data:
    """Inputs and digits: 900 images to train on, 300 for validation, 597 for the test. The same for all seeds."""

    train: tuple[Tensor, Tensor]
    valid: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def split(x: Tensor) -> Data:
    y = torch.tensor(load_digits().target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return Data(*((x[part], y[part]) for part in order.split([900, 300, len(x) - 1200])))


def images() -> Data:
    return split(torch.tensor(load_digits().images / 16, dtype=torch.float32)[:, None])


def rows() -> Data:
    bits = torch.tensor(load_digits().images > 7).long()
    return split(F.pad((bits * 2 ** torch.arange(8)).sum(-1) + 1, (1, 0), value=START))


def train_cnn(arm: dict[str, Any], seed: int) -> Iterator[tuple[int, dict[str, float]]]:
    torch.manual_seed(seed)
    layers = nn.Sequential()
    for layer in range(8):
        layers.append(nn.Sequential(nn.Conv2d(1 if layer == 0 else 16, 16, 3, padding=1), nn.ReLU()))
    model = nn.Sequential(layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 4 * 4, 10))
    auxiliary = aux.Term(F.cross_entropy, tap="0.[13]", head=aux.heads.pooled(10), weight=arm["weight"])
    objective = aux.Objective(main=aux.Term(F.cross_entropy), auxiliary={"layer": auxiliary})
    yield from fit(model, objective, images(), arm, seed)


def train_encoder(arm: dict[str, Any], seed: int) -> Iterator[tuple[int, dict[str, float]]]:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=START + 1, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=9, num_labels=10, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = Logits(BertForSequenceClassification(config))
    auxiliary = aux.Term(
        F.cross_entropy,
        tap="bert.bert.encoder.layer.[01]",
        select=lambda hidden: hidden[:, 0],  # the first token, as BERT's own classifier
        head=aux.heads.linear(10),
        weight=arm["weight"],
    )
    objective = aux.Objective(main=aux.Term(F.cross_entropy), auxiliary={"layer": auxiliary})
    yield from fit(model, objective, rows(), arm, seed)


class Logits(nn.Module):
    """An encoder of transformers that returns its logits alone."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, tokens: Tensor) -> Tensor:
        return self.bert(input_ids=tokens).logits


def fit(
    model: nn.Module, objective: aux.Objective, data: Data, arm: dict[str, Any], seed: int
) -> Iterator[tuple[int, dict[str, float]]]:
    """Trains, and yields the step and the losses of the model alone, in nats."""
    x, y = data.train
    objective.build(model, x[:1])
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=arm["rate"])
    draw = torch.Generator().manual_seed(seed)  # the batches are the same in both arms
    for step in range(1, arm["steps"] + 1):
        batch = torch.randint(len(x), (32,), generator=draw)
        optimizer.zero_grad()
        objective(model, x[batch], y[batch]).total.backward()
        optimizer.step()
        if step % 50 == 0 or step == arm["steps"]:
            with torch.no_grad():
                losses = {part: F.cross_entropy(model(inputs), digits) for part, (inputs, digits) in
                          (("valid_loss", data.valid), ("test_loss", data.test))}  # fmt: skip
            yield step, {name: loss.item() for name, loss in losses.items()}


def ask(train: Any, steps: int, folder: Path, rates: tuple[float, ...] = RATES) -> studies.Result:
    """Tunes the learning rate of each arm, compares the arms, and prints the answer."""
    tuning = {
        f"{name} at {rate:g}": settings | {"rate": rate, "steps": steps}
        for name, settings in ARMS.items()
        for rate in rates
    }
    print(f"{train.__name__}: {len(tuning) * len(TUNING_SEEDS)} runs to tune, {len(ARMS) * len(SEEDS)} to compare")
    losses = studies.run(
        train, arms=tuning, seeds=TUNING_SEEDS, metric="valid_loss", higher_is_better=False, folder=folder, quiet=True
    ).means
    best = {name: min(rates, key=lambda rate: losses[f"{name} at {rate:g}"]) for name in ARMS}
    print("learning rates:", ", ".join(f"{name} {rate:g}" for name, rate in best.items()))
    arms = {name: tuning[f"{name} at {rate:g}"] for name, rate in best.items()}
    result = studies.run(
        train, arms=arms, seeds=SEEDS, metric="test_loss", higher_is_better=False, effect=EFFECT, folder=folder,
        quiet=True,
    )  # fmt: skip
    print(result)
    seconds = {name: sum(run.seconds for run in result.runs if run.arm == name) / len(SEEDS) for name in ARMS}
    print("seconds a run:", ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    print("report:", result.report(folder / f"{train.__name__}.html"))
    return result


def main(
    steps: int = 200, folder: str | Path = "studies/does_it_help", rates: tuple[float, ...] = RATES
) -> dict[str, studies.Result]:
    return {train.__name__: ask(train, steps, Path(folder), rates) for train in (train_cnn, train_encoder)}


if __name__ == "__main__":
    main()
