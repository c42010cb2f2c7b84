"""docs/support.md against results of every cell; `PYTHONPATH=tests python tests/auxiliary/test_support.py` writes it.

A cell is correct, or the library refuses it with one sentence; any other result fails.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._functorch.config

from auxiliary import framework_cells, two_ranks
from auxiliary.cells import (
    ATTACHED_FIRST,
    AUTOCAST,
    DDP,
    FSDP2,
    PLAIN,
    SINGLE_PROCESS,
    max_relative_difference,
    run,
    run_by_hand,
)
from auxiliary.features import FEATURES, Feature
from charladder import auxiliary as aux

PAGE = Path(__file__).parents[2] / "docs" / "support.md"
TWO_PROCESSES = [DDP, FSDP2]
HEAD = """\
# What works with what

Each cell is a small model that is trained with one feature (the row) in one setting (the column). `yes` means that the
gradients, or the weights after some steps, equal those of losses written out by hand. `no` means that the library
raises the error of that number, in which `inner` is the term and `blocks.0` its tap. This command writes the page:

    PYTHONPATH=tests python tests/auxiliary/test_support.py

It runs all cells (compiled with the backend `aot_eager`; DDP and FSDP2 as two processes on the CPU), and a test
compares the page with the results.
"""
FRAMEWORKS_HEAD = """
## In training frameworks

The same in a loop that calls the model inside `capture`, in one whose call of the objective is compiled as a whole,
the model included, and in the frameworks of [frameworks.md](frameworks.md), in one process. In Lightning,
micro-batches, diagnosis and the gate are in manual optimisation, the other rows in automatic optimisation. A dash means
that the loop has no place for it: the framework calls `backward` itself, or the graph ends.
"""


def checked(feature: Feature, setting: str, action: Callable[[], dict[str, torch.Tensor]]) -> str:
    """`yes`, or the message of a refusal. Raises AssertionError for a wrong result."""
    try:
        found = action()
    except aux.AuxiliaryError as error:
        return str(error)
    # The hand-written peer differs in the order of summation: 1e-15 in float64; under autocast both round to bf16 at
    # the same operations and sum gradients in float32. A missing term or weight is above 1e-2.
    tolerance = 1e-6 if setting == AUTOCAST else 1e-9
    gap = max_relative_difference(found, run_by_hand(feature, setting))
    assert gap < tolerance, f"{feature.name}, {setting}: wrong by {gap:.2g}"
    return "yes"


def checked_ranks(feature: Feature, setting: str, ranks: list[dict[str, Any]]) -> str:
    """`checked` for the results of two ranks, which must be equal."""

    def action(answer: dict[str, Any]) -> dict[str, torch.Tensor]:
        if "refused" in answer:
            raise aux.AuxiliaryError(answer["refused"])
        return {name: torch.tensor(numbers, dtype=torch.float64) for name, numbers in answer["found"].items()}

    answers = [rank[f"{feature.name} {setting}"] for rank in ranks]
    first, second = (checked(feature, setting, lambda answer=answer: action(answer)) for answer in answers)
    assert first == second
    return first


def checked_framework(feature: Feature, framework: str) -> str:
    """`checked` in a framework; `-` if its loop cannot do this kind of training."""
    found: list[Any] = []

    def action() -> dict[str, torch.Tensor]:
        found.append(framework_cells.run(feature, framework))
        return found[0] or run_by_hand(feature, PLAIN)

    answer = checked(feature, PLAIN, action)
    return "-" if found == [None] else answer


def page(ranks: list[dict[str, Any]]) -> str:
    """The text of the page. Runs all cells."""
    sentences: list[str] = []

    def shown(answer: str) -> str:
        if answer in ("yes", "-"):
            return answer
        if answer not in sentences:
            sentences.append(answer)
        return f"no [{sentences.index(answer) + 1}]"

    lines = [
        HEAD,
        "| | " + " | ".join([*SINGLE_PROCESS, *TWO_PROCESSES]) + " |",
        "| --- |" + " --- |" * len([*SINGLE_PROCESS, *TWO_PROCESSES]),
    ]
    for feature in FEATURES:
        cells = [checked(feature, setting, lambda f=feature, s=setting: run(f, s)) for setting in SINGLE_PROCESS]
        cells += [checked_ranks(feature, setting, ranks) for setting in TWO_PROCESSES]
        lines.append(f"| {feature.name} | " + " | ".join(map(shown, cells)) + " |")
    names = list(framework_cells.FRAMEWORKS)
    lines += [FRAMEWORKS_HEAD, "| | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for feature in FEATURES:
        cells = [checked_framework(feature, framework) for framework in names]
        lines.append(f"| {feature.name} | " + " | ".join(map(shown, cells)) + " |")
    return "\n".join([*lines, "", *(f"{number}. {text}" for number, text in enumerate(sentences, 1))]) + "\n"


@pytest.mark.slow
def test_support_page_matches_every_cell(tmp_path_factory: pytest.TempPathFactory):
    assert PAGE.read_text() == page(two_ranks.results(two_ranks.shared_folder(tmp_path_factory)))


@pytest.mark.slow
@pytest.mark.parametrize("framework", framework_cells.FRAMEWORKS)
def test_micro_batches_in_a_framework(framework):
    (feature,) = (feature for feature in FEATURES if feature.name.startswith("accumulation"))
    assert checked_framework(feature, framework) == "yes"


def test_compiled_model_can_be_diagnosed_without_donated_buffers():
    (feature,) = (feature for feature in FEATURES if feature.training == "diagnosis")
    with torch._functorch.config.patch(donated_buffer=False):
        assert checked(feature, ATTACHED_FIRST, lambda: run(feature, ATTACHED_FIRST)) == "yes"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        PAGE.write_text(page(two_ranks.results(Path(place))))
