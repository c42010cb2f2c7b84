"""A plan: which runs are to be compared, and by what rule."""

from dataclasses import dataclass

from charladder.recipe import Raw


@dataclass(frozen=True)
class Arm:
    """One way of training: `fields`, by dotted name, over those that all arms share."""

    name: str
    fields: Raw


@dataclass(frozen=True)
class Plan:
    """Every arm is trained with every seed: from the recipe `base` with `fields` set, on `data`, compared with the arm
    `baseline`. `question` and `rule` stand at the head of the report."""

    name: str
    question: str
    rule: str
    base: str
    data: tuple[str, ...]
    fields: Raw
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    baseline: str


def run_name(arm: str, seed: int) -> str:
    """The run directory of an arm and a seed, in the plan's folder."""
    return f"{arm}-seed{seed}"
