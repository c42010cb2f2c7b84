"""Two ranks with parts of a batch against one process with all of it, under DDP and FSDP2; all in float64."""

from typing import Any

import pytest
import torch

from auxiliary import two_ranks
from auxiliary.cells import DDP, FSDP2

TOLERANCE = 1e-9  # sums in another order differ by some 1e-15; a wrong factor or a missing gradient by far more


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return two_ranks.results(two_ranks.folder_of_all(tmp_path_factory))


def gap(found: Any, wanted: Any) -> float:
    """The largest difference, relative to the largest number of a tensor."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        return max((gap(found[name], wanted[name]) for name in wanted), default=0.0)
    one, other = torch.tensor(found, dtype=torch.float64), torch.tensor(wanted, dtype=torch.float64)
    return float((one - other).abs().max() / (other.abs().max() or 1))


def both(ranks: list[dict[str, Any]], case: two_ranks.Case, wrapper: str) -> list[dict[str, Any]]:
    return [rank[f"{case.__name__} {wrapper}"] for rank in ranks]


@pytest.mark.parametrize("wrapper", [DDP, FSDP2])
@pytest.mark.parametrize("case", two_ranks.SAME, ids=lambda case: case.__name__)
def test_two_ranks_do_what_one_process_does(ranks, case, wrapper):
    """Values, counts, gradients of the model and of the heads, weights after some steps."""
    wanted, answers = case(None), both(ranks, case, wrapper)
    for answer in answers:
        assert gap(answer["found"], wanted) < TOLERANCE
    assert answers[0]["found"]["report"] == answers[1]["found"]["report"]


@pytest.mark.parametrize("case", two_ranks.DDP_ALONE, ids=lambda case: case.__name__)
def test_two_ranks_under_ddp_do_what_one_process_does(ranks, case):
    wanted = case(None)
    for answer in both(ranks, case, DDP):
        assert gap(answer["found"], wanted) < TOLERANCE


@pytest.mark.parametrize(
    "case, reason",
    [
        (two_ranks.diagnosis, "gradients by term cannot be computed under FSDP2"),
        (two_ranks.gate, "gradients by term cannot be computed under FSDP2"),
        (two_ranks.resharded_head, "its head is a part of a sharded model"),
        (two_ranks.detached_head, "its head is sharded"),
    ],
)
def test_what_fsdp2_makes_impossible_is_refused_on_both_ranks(ranks, case, reason):
    for answer in both(ranks, case, FSDP2):
        assert reason in answer["refused"]
        assert "\n" not in answer["refused"]


def test_unused_parameters_and_an_objective_inside_the_model_are_refused(ranks):
    for answer in both(ranks, two_ranks.unused_outside, DDP):
        assert "leave find_unused_parameters out" in answer["refused"]


@pytest.mark.parametrize("wrapper", [DDP, FSDP2])
def test_a_scalar_of_an_unknown_count_is_refused_on_both_ranks(ranks, wrapper):
    for answer in both(ranks, two_ranks.unknown_count, wrapper):
        assert answer["refused"].startswith("term 'inner': its loss returned one scalar, and of how many predictions")


@pytest.mark.parametrize("wrapper", [DDP, FSDP2])
def test_a_number_that_is_not_finite_on_one_rank_is_named_on_both(ranks, wrapper):
    for answer in both(ranks, two_ranks.not_finite, wrapper):
        assert answer["found"] == {"term": "numbers", "sentence": "term 'numbers' is nan (its weight is 0.5)"}
