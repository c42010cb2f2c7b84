"""auto against a simulated clock: what it picks, and what its trials cost."""

import random

import pytest

from charladder.generation.speculative import AutoDrafter
from charladder.generation.speculative.auto import MIN_TRIALS


class Costly:
    """A drafter that only has a name: costs and gains are the test's."""

    def __init__(self, name: str) -> None:
        self.name = name

    def begin(self, streams) -> None: ...

    def observe(self, passes, characters, seconds) -> None: ...


def simulate(
    costs: dict[tuple[str, int], tuple[float, float]], characters: int, seed: int, leaps: float = 0.0
) -> tuple[float, str]:
    """Seconds for so many characters, where each choice costs so much a pass, with noise, and gives so many on average;
    and what was chosen at the end. leaps: how often a pass takes eight times as long."""
    chance = random.Random(seed)
    drafters = {name: Costly(name) for name, _ in costs if name != "none"}
    auto = AutoDrafter([(d, [n for name, n in costs if name == d.name]) for d in drafters.values()])
    total, written = 0.0, 0
    while written < characters:
        seconds, mean = costs[auto.current.drafter.name, auto.current.length]
        seconds *= chance.lognormvariate(0, 0.1) * (8 if chance.random() < leaps else 1)
        given = 1
        while given <= auto.current.length and chance.random() < 1 - 1 / mean:
            given += 1
        auto.observe(1, given, seconds)
        total, written = total + seconds, written + given
    return total, auto.best_name


@pytest.mark.parametrize("seed", range(8))
def test_where_nothing_pays_it_costs_little(seed):
    useless = {("none", 0): (1.0, 1.0), ("targets", 2): (1.4, 1.1), ("targets", 4): (1.7, 1.1)}
    useless |= {("targets", 7): (2.2, 1.1), ("early-exit", 2): (2.1, 1.2), ("early-exit", 4): (2.9, 1.2)}
    useless |= {("ngram", 2): (1.3, 1.1), ("ngram", 4): (1.5, 1.1), ("ngram", 8): (2.0, 1.1)}
    total, chosen = simulate(useless, 5000, seed)
    alone, _ = simulate({("none", 0): (1.0, 1.0)}, 5000, seed + 100)
    assert chosen == "none"
    assert total < 1.03 * alone


@pytest.mark.parametrize("seed", range(8))
def test_where_one_pays_it_is_found(seed):
    good = {("none", 0): (1.0, 1.0), ("targets", 2): (1.3, 2.2), ("targets", 4): (1.4, 3.2), ("ngram", 4): (1.4, 1.3)}
    total, chosen = simulate(good, 5000, seed, leaps=0.01)
    alone, _ = simulate({("none", 0): (1.0, 1.0)}, 5000, seed + 100, leaps=0.01)
    assert chosen == "targets 4"
    best = 1.4 / ((1 - 0.6875**5) / (1 - 0.6875))  # seconds a character, of which trials and bad luck take a quarter
    assert total < 1.25 * best * alone


def test_a_choice_is_tried_again_while_it_has_had_few_trials_or_is_close():
    auto = AutoDrafter([(Costly("targets"), [4])])
    none, targets = auto.candidates
    none.record(100, 1.0)
    none.trials = 1
    assert auto.next_trial(none) is targets  # never tried
    for characters, trials, again in ((10, MIN_TRIALS - 1, True), (10, MIN_TRIALS, False), (90, MIN_TRIALS, True)):
        targets.characters, targets.seconds, targets.trials = characters, 1.0, trials
        assert (auto.next_trial(none) is targets) == again
