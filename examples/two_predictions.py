"""A model that makes two predictions besides the final one, and is trained on all three.

The task is to classify handwritten digits (scikit-learn's, 8x8 pixels). The model also predicts whether the digit is
odd, and whether it is below five. Each of these is an auxiliary loss with its own target, and is added to the main loss
with a weight,

    total = main + 0.4 * odd + 0.8 * below_five

so that the lower layers get gradients from three losses instead of one. Any model that returns `final, predictions`
works without changes.

    pip install "charladder[examples]"
    python examples/two_predictions.py
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from charladder import auxiliary as aux


class Reader(nn.Module):
    """Three layers; each of the first two makes an auxiliary prediction, and the last predicts the digit."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = nn.Linear(64, 48), nn.Linear(48, 48), nn.Linear(48, 48)
        self.odd, self.below_five, self.digit = nn.Linear(48, 1), nn.Linear(48, 1), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden1 = self.layer1(x).relu()
        hidden2 = self.layer2(hidden1).relu()
        hidden3 = self.layer3(hidden2).relu()
        return self.digit(hidden3), (self.odd(hidden1).squeeze(-1), self.below_five(hidden2).squeeze(-1))


def make_objective() -> aux.Objective:
    """Auxiliary terms without a tap read the predictions that the model returns, in this order."""
    return aux.Objective(
        main=aux.Term(F.cross_entropy),
        auxiliary={
            "odd": aux.Term(F.binary_cross_entropy_with_logits, weight=0.4),
            "below_five": aux.Term(F.binary_cross_entropy_with_logits, weight=0.8),
        },
    )


def load() -> tuple[Tensor, dict[str, Tensor]]:
    """All images, and the target of each term by its name."""
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    return x, {"main": y, "odd": (y % 2).float(), "below_five": (y < 5).float()}


def by_hand(model: nn.Module, x: Tensor, targets: dict[str, Tensor]) -> Tensor:
    """The hand-written total."""
    final, (odd, below_five) = model(x)
    return (
        F.cross_entropy(final, targets["main"])
        + 0.4 * F.binary_cross_entropy_with_logits(odd, targets["odd"])
        + 0.8 * F.binary_cross_entropy_with_logits(below_five, targets["below_five"])
    )


def main(steps: int = 300) -> dict[str, float]:
    torch.manual_seed(0)
    x, targets = load()
    order = torch.randperm(len(x))
    learn, test = order[:1500], order[1500:]
    model, objective = Reader(), make_objective()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    for step in range(steps):
        batch = learn[torch.randint(len(learn), (64,))]
        report = objective(model, x[batch], {name: target[batch] for name, target in targets.items()})
        optimizer.zero_grad()
        report.total.backward()
        optimizer.step()
        if step in (0, steps - 1):
            terms = " + ".join(f"{term.weight:g} * {term.value:.4f} ({name})" for name, term in report.terms.items())
            print(f"step {step + 1:3}: {report.total:.4f} = {terms}")

    held_out = {name: target[test] for name, target in targets.items()}
    with torch.no_grad():
        report = objective(model, x[test], held_out)
        same = torch.equal(report.total, by_hand(model, x[test], held_out))
        final, (odd, below_five) = model(x[test])
    print(f"the sum on {len(test)} images held out: {report.total:.4f}; by hand the same to the last bit: {same}")
    correct = {
        "digit": final.argmax(1) == held_out["main"],
        "odd": (odd > 0) == held_out["odd"].bool(),
        "below_five": (below_five > 0) == held_out["below_five"].bool(),
    }
    accuracy = {f"{name}_accuracy": float(is_correct.float().mean()) for name, is_correct in correct.items()}
    print("  ".join(f"{name}: {value:.3f}" for name, value in accuracy.items()))
    return accuracy | {"total": report.value, "same_by_hand": float(same)}


if __name__ == "__main__":
    main()
