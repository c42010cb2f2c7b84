"""Two processes (DDP with gloo, started by torchrun) train in frameworks as one process does, in float64."""

from typing import Any

import pytest

from auxiliary import framework_ranks


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return framework_ranks.results(tmp_path_factory.mktemp("ranks"))


def numbers(value: Any) -> list[float]:
    """All numbers in nested dicts and lists, in order."""
    if isinstance(value, dict | list):
        return [n for part in (value.values() if isinstance(value, dict) else value) for n in numbers(part)]
    return [value]


@pytest.mark.slow
@pytest.mark.parametrize("case", framework_ranks.TRAINING, ids=lambda case: case.__name__)
def test_two_ranks_end_with_the_weights_of_one_process(ranks, case, tmp_path):
    """Another order of summation differs by 1e-15 in a step; a wrong divisor or a missing gradient by much more."""
    wanted = case(tmp_path)
    for rank in ranks:
        found = rank[case.__name__]
        assert found.keys() == wanted.keys()
        assert numbers(found) == pytest.approx(numbers(wanted), rel=1e-8, abs=1e-10)
