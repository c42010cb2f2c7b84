"""What do the auxiliary library and its diagnosis cost, compared with hand-written terms?

Steps (forward, backward, SGD) of a network with 12 auxiliary terms alternate: the library, with taps by name and
scheduled weights, against a model that returns its hidden states and a loss written as a sum. Reports medians of the
paired ratios. Then steps of the recipe `ladder` with and without a diagnosis, which give its cost at the default
interval.

    python -m benchmarks overhead --repeats 200
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import report
from benchmarks.peers import fresh_trainer
from charladder import auxiliary as aux
from charladder.recipe import load_recipe_fields, resolve
from charladder.training import Trainer

TERMS = 12
# name: width, batch, length. In the smallest, most of a step is Python overhead.
SIZES = {"tiny": (32, 4, 16), "small": (128, 8, 64), "medium": (256, 8, 128)}
CLASSES = 256


class Layers(nn.Module):
    """A residual network of feed-forward layers. `states` is used by the hand-written loss only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(TERMS + 1)
        )
        self.out = nn.Linear(width, CLASSES)

    def forward(self, x_BT: Tensor) -> Tensor:
        return self.out(self.states(x_BT)[-1])

    def states(self, x_BT: Tensor) -> list[Tensor]:
        x_BTD, states = self.embedding(x_BT), []
        for layer in self.layers:
            states.append(layer(x_BTD))
            x_BTD = x_BTD + states[-1]
        return [*states, x_BTD]


def character_loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def make_steps(width: int, batch: int, length: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """A training step with the library and one with hand-written terms, of two equal networks."""
    steps = []
    for use_library in (True, False):
        torch.manual_seed(0)
        model, heads = Layers(width), [nn.Linear(width, CLASSES) for _ in range(TERMS)]
        text = torch.randint(0, CLASSES, (batch, length + 1))
        x, y = text[:, :-1], text[:, 1:]
        optimizer = torch.optim.SGD([*model.parameters(), *(p for head in heads for p in head.parameters())], 0.01)
        weight = aux.schedules.linear(0.5, 0.0, until=0.5)
        terms = {
            f"layer{n}": aux.Term(character_loss, tap=f"layers.{n}", head=heads[n], weight=weight) for n in range(TERMS)
        }
        objective = aux.Objective(aux.Term(character_loss), terms, model=model) if use_library else None

        def step(model=model, heads=heads, x=x, y=y, optimizer=optimizer, objective=objective, weight=weight) -> None:
            if objective is not None:
                total = objective(model, x, y, progress=0.1).total
            else:
                *states, last = model.states(x)
                total = character_loss(model.out(last), y)
                for head, state in zip(heads, states, strict=False):
                    total = total + weight(0.1) * character_loss(head(state), y)
            total.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        steps.append(step)
    return steps[0], steps[1]


def measure_seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure_ratio(
    one: Callable[[], object], other: Callable[[], object], repeats: int
) -> tuple[float, float, float, tuple[float, float]]:
    """Median seconds of both functions, the median of the paired ratios, and its 95% interval (order statistics)."""
    for work in (one, other, one, other):
        work()
    pairs = []
    for n in range(repeats):
        if n % 2:
            second, first = measure_seconds(other), measure_seconds(one)
        else:
            first, second = measure_seconds(one), measure_seconds(other)
        pairs.append((first, second))
    ratios = sorted(first / second for first, second in pairs)
    margin = 0.98 * math.sqrt(repeats)
    low, high = (
        ratios[min(repeats - 1, max(0, rank))]
        for rank in (int(repeats / 2 - margin) - 1, int(repeats / 2 + margin) + 1)
    )
    medians = [statistics.median(pair[side] for pair in pairs) for side in (0, 1)]
    return medians[0], medians[1], statistics.median(ratios), (low, high)


def make_trainer(diagnose_every: int) -> Trainer:
    """A trainer of the recipe `ladder` on its default text. diagnose_every: in steps; 0: never."""
    raw = load_recipe_fields("ladder")
    raw |= {"training.minutes": 0.0, "training.steps": 100_000, "training.diagnose_every": diagnose_every}
    return fresh_trainer(raw)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks overhead", description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="20 repeats")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    repeats = 20 if options.quick else options.repeats
    rows, ratios, measured = [["", "with", "without", "added time (95%)"]], {}, {}
    for name, shape in SIZES.items():
        library, by_hand, ratio, interval = measure_ratio(*make_steps(*shape), repeats)
        ratios[f"library_cost_{name}"] = ratio
        measured[name] = {
            "library_s": library, "by_hand_s": by_hand, "ratio_95": interval, "width_batch_length": shape,
        }  # fmt: skip
        cost = f"{ratio - 1:+.1%} ({interval[0] - 1:+.1%} to {interval[1] - 1:+.1%})"
        rows.append([f"12 terms, {name}", f"{1e3 * library:.2f} ms", f"{1e3 * by_hand:.2f} ms", cost])
    with_diagnosis, plain = make_trainer(1), make_trainer(0)
    every = resolve(load_recipe_fields("ladder")).training.diagnose_every
    diagnosed, alone, ratio, _ = measure_ratio(with_diagnosis.step, plain.step, max(10, repeats // 10))
    ratios["diagnosis_cost"] = 1 + (ratio - 1) / every
    measured["diagnosis"] = {"with_s": diagnosed, "without_s": alone, "every": every}
    row = f"{1e3 * diagnosed:.0f} ms", f"{1e3 * alone:.0f} ms", f"{(ratio - 1) / every:+.1%} every {every} steps"
    rows.append(["diagnosis, recipe ladder", *row])
    report(
        "what does the auxiliary library cost?",
        ratios,
        measured,
        {"repeats": repeats, "terms": TERMS},
        rows,
        options.json,
    )
    return 0
