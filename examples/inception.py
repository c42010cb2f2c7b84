"""A small Inception network with its two auxiliary classifiers (Szegedy et al. 2015, section 5).

In a deep network, the gradient of the last layer's loss may be very small in the lowest layers. Inception has two small
classifiers on intermediate layers that make the same prediction. Their losses are added with a weight of 0.3, in
training only; afterwards the classifiers are removed. This network has six Inception modules instead of nine, few
channels, and like the first Inception no batch norm. The images are scikit-learn's handwritten digits: 8x8 pixels,
enlarged to 32x32.

    pip install "charladder[examples]"
    python examples/inception.py
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from charladder import auxiliary as aux

TRUNK = ("3a", "3b", "pool3", "4a", "4b", "pool4", "5a", "5b")


def conv(inputs: int, outputs: int, size: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, padding=size // 2), nn.ReLU())


class Inception(nn.Module):
    """Four parallel branches: 1x1, 3x3, 5x5 and a pool; 1x1 convolutions reduce their cost."""

    def __init__(self, inputs: int, each: int = 8) -> None:
        super().__init__()
        self.branch1 = conv(inputs, each, 1)
        self.branch3 = nn.Sequential(conv(inputs, each, 1), conv(each, each, 3))
        self.branch5 = nn.Sequential(conv(inputs, each // 2, 1), conv(each // 2, each, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), conv(inputs, each, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch3(x), self.branch5(x), self.pool(x)], dim=1)


class SmallGoogLeNet(nn.Module):
    """A network without auxiliary losses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(1, 32, 5), nn.MaxPool2d(4))
        self.trunk = nn.Sequential()
        for name in TRUNK:
            self.trunk.add_module(name, nn.MaxPool2d(2) if name.startswith("pool") else Inception(32))
        self.output = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.trunk(self.stem(x)))


def classifier() -> nn.Module:
    """An auxiliary classifier: a pool, a 1x1 convolution and a linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), conv(32, 16, 1), nn.Flatten(), nn.Linear(16 * 4 * 4, 10))


def make_objective() -> aux.Objective:
    """The classifiers read modules by name, so the network need not be edited."""
    return aux.Objective(
        main=aux.Term(F.cross_entropy),
        auxiliary={
            "lower": aux.Term(F.cross_entropy, tap="trunk.3a", head=classifier(), weight=0.3),
            "upper": aux.Term(F.cross_entropy, tap="trunk.4a", head=classifier(), weight=0.3),
        },
    )


def load() -> tuple[Tensor, Tensor]:
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    return F.interpolate(images, size=(32, 32), mode="bilinear"), torch.tensor(digits.target)


def main(steps: int = 160) -> dict[str, object]:
    torch.manual_seed(0)
    x, y = load()
    order = torch.randperm(len(x))
    learn, test = order[:1400], order[1400:]
    model, objective = SmallGoogLeNet(), make_objective()
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=3e-3)
    print("scikit-learn's digits, 8x8 enlarged to 32x32")
    report = objective(model, x[learn[:100]], y[learn[:100]])  # diagnose needs the graph, which backward frees
    norms = aux.diagnose(report, aux.by_depth(model, "stem") | aux.by_depth(model, "trunk.*"))

    for step in range(steps):
        batch = learn[torch.randint(len(learn), (32,))]
        report = objective(model, x[batch], y[batch])
        optimizer.zero_grad()
        report.total.backward()
        optimizer.step()
        if step % 40 == 0 or step == steps - 1:
            print(f"step {step + 1:3}:", ", ".join(f"{name} {term.value:.3f}" for name, term in report.terms.items()))

    print("gradient norms before training, from the lowest module to the highest")
    print("  module            main loss alone  with auxiliary losses")
    for name, without in norms.main_norms.items():
        print(f"  {name:10} {without:22.2e} {norms.total_norms[name]:22.2e}")

    objective.remove()  # takes the hooks off; the network alone is used and saved
    with torch.no_grad():
        accuracy = float((model(x[test]).argmax(1) == y[test]).float().mean())
    print(f"accuracy of the network alone, on {len(test)} images held out: {accuracy:.3f}")
    return {
        "accuracy": accuracy,
        "without": norms.main_norms,
        "whole": norms.total_norms,
        "weights": set(model.state_dict()),
    }


if __name__ == "__main__":
    main()
