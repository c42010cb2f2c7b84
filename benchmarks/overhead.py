"""What does the auxiliary library cost, against the same 12 terms written by hand? And what does its diagnosis?

Steps (forward, backward, SGD) of one network with 12 auxiliary terms, alternated: the library with taps by name and
weights from a schedule, against a model that was edited to return its states and a sum written out. Ratios are
medians of each pair's. Then steps of the recipe `ladder` with and without a diagnosis at each, from which follows its
share of the time at the default interval.

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
from charladder.recipe import read_raw, resolve
from charladder.training import Trainer

TERMS = 12
# name: width, batch, length. The smallest is one where Python itself is most of a step.
SIZES = {"tiny": (32, 4, 16), "small": (128, 8, 64), "medium": (256, 8, 128)}
CLASSES = 256


class Layers(nn.Module):
    """A residual network of feed-forward layers; `states` is what an owner who may edit it would return."""

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


def letters(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def steps(width: int, batch: int, length: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """One training step with the library, and one by hand, of two networks that are the same."""
    made = []
    for by_library in (True, False):
        torch.manual_seed(0)
        model, heads = Layers(width), [nn.Linear(width, CLASSES) for _ in range(TERMS)]
        text = torch.randint(0, CLASSES, (batch, length + 1))
        x, y = text[:, :-1], text[:, 1:]
        optimizer = torch.optim.SGD([*model.parameters(), *(p for head in heads for p in head.parameters())], 0.01)
        weight = aux.schedules.linear(0.5, 0.0, until=0.5)
        terms = {
            f"layer{at}": aux.Term(letters, tap=f"layers.{at}", head=heads[at], weight=weight) for at in range(TERMS)
        }
        objective = aux.Objective(aux.Term(letters), terms, model=model) if by_library else None

        def step(model=model, heads=heads, x=x, y=y, optimizer=optimizer, objective=objective, weight=weight) -> None:
            if objective is not None:
                total = objective(model, x, y, progress=0.1).total
            else:
                *states, last = model.states(x)
                total = letters(model.out(last), y)
                for head, state in zip(heads, states, strict=False):
                    total = total + weight(0.1) * letters(head(state), y)
            total.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        made.append(step)
    return made[0], made[1]


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def alternated(
    one: Callable[[], object], other: Callable[[], object], repeats: int
) -> tuple[float, float, float, tuple[float, float]]:
    """Median seconds of each, the median ratio of neighbours, and a 95% interval of that median (order statistics)."""
    for work in (one, other, one, other):
        work()
    pairs = []
    for at in range(repeats):
        if at % 2:
            second, first = timed(other), timed(one)
        else:
            first, second = timed(one), timed(other)
        pairs.append((first, second))
    ratios = sorted(first / second for first, second in pairs)
    margin = 0.98 * math.sqrt(repeats)
    low, high = (
        ratios[min(repeats - 1, max(0, at))] for at in (int(repeats / 2 - margin) - 1, int(repeats / 2 + margin) + 1)
    )
    medians = [statistics.median(pair[at] for pair in pairs) for at in (0, 1)]
    return medians[0], medians[1], statistics.median(ratios), (low, high)


def trainer(every: int) -> Trainer:
    """The recipe `ladder` on its default text, with a diagnosis every so many steps (0: never)."""
    raw = read_raw("ladder")
    raw |= {"training.minutes": 0.0, "training.steps": 100_000, "training.diagnose_every": every}
    return fresh_trainer(raw)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks overhead", description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="20 repeats")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    repeats = 20 if options.quick else options.repeats
    rows, ratios, measured = [["", "with", "without", "cost (95%)"]], {}, {}
    for name, shape in SIZES.items():
        library, by_hand, ratio, interval = alternated(*steps(*shape), repeats)
        ratios[f"library_cost_{name}"] = ratio
        measured[name] = {
            "library_s": library, "by_hand_s": by_hand, "ratio_95": interval, "width_batch_length": shape,
        }  # fmt: skip
        cost = f"{ratio - 1:+.1%} ({interval[0] - 1:+.1%} to {interval[1] - 1:+.1%})"
        rows.append([f"12 terms, {name}", f"{1e3 * library:.2f} ms", f"{1e3 * by_hand:.2f} ms", cost])
    with_diagnosis, plain = trainer(1), trainer(0)
    every = resolve(read_raw("ladder")).training.diagnose_every
    diagnosed, alone, ratio, _ = alternated(with_diagnosis.step, plain.step, max(10, repeats // 10))
    ratios["diagnosis_cost"] = 1 + (ratio - 1) / every
    measured["diagnosis"] = {"with_s": diagnosed, "without_s": alone, "every": every}
    row = f"{1e3 * diagnosed:.0f} ms", f"{1e3 * alone:.0f} ms", f"{(ratio - 1) / every:+.1%} every {every} steps"
    rows.append(["a diagnosis, recipe ladder", *row])
    report(
        "what the auxiliary library costs", ratios, measured, {"repeats": repeats, "terms": TERMS}, rows, options.json
    )
    return 0
