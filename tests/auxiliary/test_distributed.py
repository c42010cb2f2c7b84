"""Two ranks with parts of a batch against one process with the full batch, under DDP and FSDP2; in float64."""

from typing import Any

import pytest
import torch

from auxiliary import two_ranks
from auxiliary.cells import DDP, FSDP2

TOLERANCE = 1e-9  # another order of summation differs by 1e-15; a wrong factor or a missing gradient by much more


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return two_ranks.results(two_ranks.shared_folder(tmp_path_factory))


def max_relative_gap(found: Any, wanted: Any) -> float:
    """The largest difference, relative to the largest number of a tensor."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        return max((max_relative_gap(found[name], wanted[name]) for name in wanted), default=0.0)
    one, other = torch.tensor(found, dtype=torch.float64), torch.tensor(wanted, dtype=torch.float64)
    return float((one - other).abs().max() / (other.abs().max() or 1))


def results_of_case(ranks: list[dict[str, Any]], case: two_ranks.Case, wrapper: str) -> list[dict[str, Any]]:
    return [rank[f"{case.__name__} {wrapper}"] for rank in ranks]


@pytest.mark.parametrize("wrapper", [DDP, FSDP2])
@pytest.mark.parametrize("case", two_ranks.BOTH_WRAPPERS, ids=lambda case: case.__name__)
def test_two_ranks_match_one_process(ranks, case, wrapper):
    """Values, counts, gradients of the model and of the heads, weights after some steps."""
    wanted, answers = case(None), results_of_case(ranks, case, wrapper)
    for answer in answers:
        assert max_relative_gap(answer["found"], wanted) < TOLERANCE
    assert answers[0]["found"]["report"] == answers[1]["found"]["report"]


@pytest.mark.parametrize("case", two_ranks.DDP_ONLY, ids=lambda case: case.__name__)
def test_two_ddp_ranks_match_one_process(ranks, case):
    wanted = case(None)
    for answer in results_of_case(ranks, case, DDP):
        assert max_relative_gap(answer["found"], wanted) < TOLERANCE


@pytest.mark.parametrize(
    "case, reason",
    [
        (two_ranks.diagnosis, "gradients by term cannot be computed under FSDP2"),
        (two_ranks.gate, "gradients by term cannot be computed under FSDP2"),
        (two_ranks.gradnorm, "gradients by term cannot be computed under FSDP2"),
        (two_ranks.resharded_head, "its head is a part of a sharded model"),
        (two_ranks.detached_head, "its head is sharded"),
    ],
)
def test_unsupported_features_are_refused_on_both_fsdp2_ranks(ranks, case, reason):
    for answer in results_of_case(ranks, case, FSDP2):
        assert reason in answer["refused"]
        assert "\n" not in answer["refused"]


def test_find_unused_parameters_with_objective_in_model_is_refused(ranks):
    for answer in results_of_case(ranks, two_ranks.unused_outside, DDP):
        assert "leave find_unused_parameters out" in answer["refused"]


@pytest.mark.parametrize("wrapper", [DDP, FSDP2])
def test_scalar_with_unknown_count_is_refused_on_both_ranks(ranks, wrapper):
    for answer in results_of_case(ranks, two_ranks.unknown_count, wrapper):
        assert answer["refused"].startswith("term 'inner': its loss returned one scalar, and of how many predictions")


def test_parts_that_ranks_do_not_know_are_refused_on_both_ranks(ranks):
    for answer in results_of_case(ranks, two_ranks.undeclared_parts, DDP):
        assert answer["refused"] == (
            "term 'parts': its loss returned named parts, and several processes must know that they have the same; "
            "give Term(parts={'class': 1, 'sum': 1, 'mean': 1})"
        )


@pytest.mark.parametrize("wrapper", [DDP, FSDP2])
def test_nan_on_one_rank_is_reported_on_both(ranks, wrapper):
    for answer in results_of_case(ranks, two_ranks.not_finite, wrapper):
        assert answer["found"] == {"term": "numbers", "sentence": "term 'numbers' is nan (its weight is 0.5)"}
