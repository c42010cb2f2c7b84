"""What works with what, cell by cell; `PYTHONPATH=tests python tests/auxiliary/test_support.py` writes docs/support.md.

Every cell is run, and is right, or refused with one sentence; anything else fails here.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._functorch.config

from auxiliary import two_ranks
from auxiliary.cells import ALONE, ATTACHED_FIRST, AUTOCAST, DDP, FSDP2, difference, run, run_by_hand
from auxiliary.features import FEATURES, Feature
from charladder import auxiliary as aux

PAGE = Path(__file__).parents[2] / "docs" / "support.md"
TOGETHER = [DDP, FSDP2]
HEAD = """\
# What works with what

Each cell is a small model that is trained with one feature (the row) in one setting (the column). `yes` means that the
gradients, or the weights after some steps, equal those of losses written out by hand. `no` means that the library
raises the error of that number, in which `inner` is the term and `blocks.0` its tap. This command writes the page:

    PYTHONPATH=tests python tests/auxiliary/test_support.py

It runs all cells (compiled with the backend `aot_eager`; DDP and FSDP2 as two processes on the CPU), and a test
compares the page with the results.
"""


def checked(feature: Feature, setting: str, action: Callable[[], dict[str, torch.Tensor]]) -> str:
    """`yes`, or the sentence of a refusal; fails where a result is wrong."""
    try:
        found = action()
    except aux.AuxiliaryError as error:
        return str(error)
    # By hand the same operations run, but for the order of sums. In float64 that is some 1e-15; under autocast the
    # roundings to bf16 are the same ones, and gradients add up in float32. A lost term or weight is above 1e-2.
    tolerance = 1e-6 if setting == AUTOCAST else 1e-9
    gap = difference(found, run_by_hand(feature, setting))
    assert gap < tolerance, f"{feature.name}, {setting}: wrong by {gap:.2g}"
    return "yes"


def from_ranks(feature: Feature, setting: str, ranks: list[dict[str, Any]]) -> str:
    """The same for two ranks, who must agree."""

    def action(answer: dict[str, Any]) -> dict[str, torch.Tensor]:
        if "refused" in answer:
            raise aux.AuxiliaryError(answer["refused"])
        return {name: torch.tensor(numbers, dtype=torch.float64) for name, numbers in answer["found"].items()}

    answers = [rank[f"{feature.name} {setting}"] for rank in ranks]
    first, second = (checked(feature, setting, lambda answer=answer: action(answer)) for answer in answers)
    assert first == second
    return first


def page(ranks: list[dict[str, Any]]) -> str:
    """Runs all cells."""
    sentences: list[str] = []

    def shown(answer: str) -> str:
        if answer == "yes":
            return answer
        if answer not in sentences:
            sentences.append(answer)
        return f"no [{sentences.index(answer) + 1}]"

    lines = [HEAD, "| | " + " | ".join([*ALONE, *TOGETHER]) + " |", "| --- |" + " --- |" * len([*ALONE, *TOGETHER])]
    for feature in FEATURES:
        cells = [checked(feature, setting, lambda f=feature, s=setting: run(f, s)) for setting in ALONE]
        cells += [from_ranks(feature, setting, ranks) for setting in TOGETHER]
        lines.append(f"| {feature.name} | " + " | ".join(map(shown, cells)) + " |")
    return "\n".join([*lines, "", *(f"{number}. {text}" for number, text in enumerate(sentences, 1))]) + "\n"


@pytest.mark.slow
def test_the_page_says_what_every_cell_does(tmp_path_factory: pytest.TempPathFactory):
    assert PAGE.read_text() == page(two_ranks.results(two_ranks.folder_of_all(tmp_path_factory)))


def test_a_compiled_model_can_be_diagnosed_as_the_refusal_says():
    (feature,) = (feature for feature in FEATURES if feature.training == "diagnosis")
    with torch._functorch.config.patch(donated_buffer=False):
        assert checked(feature, ATTACHED_FIRST, lambda: run(feature, ATTACHED_FIRST)) == "yes"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        PAGE.write_text(page(two_ranks.results(Path(place))))
