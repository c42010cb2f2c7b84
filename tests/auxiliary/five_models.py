"""Five models without auxiliary losses, each with taps, heads, and a hand-written total."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charladder.model import Transformer
from helpers import small


@dataclass
class Case:
    """A model, its inputs and targets, heads by tap, and the part of a tap's output that heads read (`select`)."""

    model: nn.Module
    inputs: Any
    targets: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    heads: dict[str, nn.Module]
    main: Callable[[Any], Tensor] = lambda output: output
    select: Any = None

    def by_hand(self, weights: dict[str, float]) -> Tensor:
        """main + the sum of weight times loss, with hand-written hooks."""
        outputs, handles = {}, []
        for tap in self.heads:
            module = self.model.get_submodule(tap)
            handles.append(module.register_forward_hook(lambda m, a, out, tap=tap: outputs.update({tap: out})))
        output = self.model(**self.inputs) if isinstance(self.inputs, dict) else self.model(self.inputs)
        for handle in handles:
            handle.remove()
        total = self.loss(self.main(output), self.targets)
        for tap, head in self.heads.items():
            state = outputs[tap] if self.select is None else outputs[tap][self.select]
            total = total + weights[tap] * self.loss(head(state), self.targets)
        return total


def token_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def mlp() -> Case:
    layers = [layer for _ in range(4) for layer in (nn.Linear(12, 12), nn.Tanh())]
    model = nn.Sequential(*layers, nn.Linear(12, 3))
    heads = {"1": nn.Linear(12, 3), "5": nn.Linear(12, 3)}
    return Case(model, torch.randn(10, 12), torch.randint(0, 3, (10,)), F.cross_entropy, heads)


class Inception(nn.Module):
    """Three parallel convolutions of one image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(channels, 4, 1)
        self.three = nn.Conv2d(channels, 4, 3, padding=1)
        self.five = nn.Conv2d(channels, 4, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.relu(branch(x)) for branch in (self.one, self.three, self.five)], 1)


def cnn() -> Case:
    model = nn.Sequential(
        Inception(1), Inception(12), Inception(12), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)
    )
    heads = {str(at): nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 5)) for at in (0, 1)}
    return Case(model, torch.randn(6, 1, 8, 8), torch.randint(0, 5, (6,)), F.cross_entropy, heads)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.lower, self.upper = nn.LSTM(8, 8, batch_first=True), nn.LSTM(8, 8, batch_first=True)
        self.out = nn.Linear(8, 20)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.upper(self.lower(self.embedding(x))[0])[0])


def lstm() -> Case:
    x = torch.randint(0, 20, (4, 9))
    heads: dict[str, nn.Module] = {"lower": nn.Linear(8, 20)}
    return Case(Recurrent(), x[:, :-1], x[:, 1:], token_cross_entropy, heads, select=0)


def hugging_face() -> Case:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, num_labels=4, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    inputs = {"input_ids": torch.randint(0, 30, (5, 7)), "attention_mask": torch.ones(5, 7, dtype=torch.long)}
    heads = {f"bert.encoder.layer.{at}": FirstPositionHead() for at in (0, 1)}
    return Case(model, inputs, torch.randint(0, 4, (5,)), F.cross_entropy, heads, main=lambda output: output.logits)


class FirstPositionHead(nn.Module):
    """Reads the first position of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(16, 4)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.out(hidden[:, 0])


def language_model() -> Case:
    x = torch.randint(0, 256, (4, 17))
    heads = {f"blocks.{at}": nn.Linear(32, 256) for at in (0, 1)}
    network = Transformer(small(), 256, seed=0)
    return Case(network, x[:, :-1], x[:, 1:], token_cross_entropy, heads, main=lambda output: output.logits_BTV)


MODELS = {"mlp": mlp, "cnn": cnn, "lstm": lstm, "hugging_face": hugging_face, "language_model": language_model}
