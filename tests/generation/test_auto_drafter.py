"""AutoDrafter with simulated times: what it chooses, and how much time its trials cost."""

import random

import pytest

from charladder.generation.speculative import AutoDrafter
from charladder.generation.speculative.auto import MIN_TRIALS


class FakeDrafter:
    """A drafter with only a name; the test simulates its cost and acceptance."""

    def __init__(self, name: str) -> None:
        self.name = name

    def begin(self, sequences) -> None: ...

    def observe(self, passes, characters, seconds) -> None: ...


def simulate(
    costs: dict[tuple[str, int], tuple[float, float]], characters: int, seed: int, slow_pass_rate: float = 0.0
) -> tuple[float, str]:
    """The seconds for `characters` characters, and the drafter chosen at the end. costs: for each drafter and length,
    seconds per pass (noise is added) and mean characters per pass. slow_pass_rate: share of passes that take eight
    times as long."""
    random_numbers = random.Random(seed)
    drafters = {name: FakeDrafter(name) for name, _ in costs if name != "none"}
    auto = AutoDrafter([(d, [n for name, n in costs if name == d.name]) for d in drafters.values()])
    total, generated = 0.0, 0
    while generated < characters:
        seconds, mean = costs[auto.current.drafter.name, auto.current.length]
        seconds *= random_numbers.lognormvariate(0, 0.1) * (8 if random_numbers.random() < slow_pass_rate else 1)
        accepted = 1
        while accepted <= auto.current.length and random_numbers.random() < 1 - 1 / mean:
            accepted += 1
        auto.observe(1, accepted, seconds)
        total, generated = total + seconds, generated + accepted
    return total, auto.best_name


@pytest.mark.parametrize("seed", range(8))
def test_small_cost_if_no_drafter_helps(seed):
    useless = {("none", 0): (1.0, 1.0), ("targets", 2): (1.4, 1.1), ("targets", 4): (1.7, 1.1)}
    useless |= {("targets", 7): (2.2, 1.1), ("early-exit", 2): (2.1, 1.2), ("early-exit", 4): (2.9, 1.2)}
    useless |= {("ngram", 2): (1.3, 1.1), ("ngram", 4): (1.5, 1.1), ("ngram", 8): (2.0, 1.1)}
    total, chosen = simulate(useless, 5000, seed)
    alone, _ = simulate({("none", 0): (1.0, 1.0)}, 5000, seed + 100)
    assert chosen == "none"
    assert total < 1.03 * alone


@pytest.mark.parametrize("seed", range(8))
def test_best_drafter_is_found(seed):
    good = {("none", 0): (1.0, 1.0), ("targets", 2): (1.3, 2.2), ("targets", 4): (1.4, 3.2), ("ngram", 4): (1.4, 1.3)}
    total, chosen = simulate(good, 5000, seed, slow_pass_rate=0.01)
    alone, _ = simulate({("none", 0): (1.0, 1.0)}, 5000, seed + 100, slow_pass_rate=0.01)
    assert chosen == "targets 4"
    best = 1.4 / ((1 - 0.6875**5) / (1 - 0.6875))  # seconds per character; trials and noise may add a quarter
    assert total < 1.25 * best * alone


def test_close_or_rarely_tried_candidates_are_tried_again():
    auto = AutoDrafter([(FakeDrafter("targets"), [4])])
    none, targets = auto.candidates
    none.record(100, 1.0)
    none.trials = 1
    assert auto.next_trial(none) is targets  # never tried
    for characters, trials, again in ((10, MIN_TRIALS - 1, True), (10, MIN_TRIALS, False), (90, MIN_TRIALS, True)):
        targets.characters, targets.seconds, targets.trials = characters, 1.0, trials
        assert (auto.next_trial(none) is targets) == again
