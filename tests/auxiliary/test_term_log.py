"""The numbers that integrations log of several reports."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from charladder import auxiliary as aux
from charladder.auxiliary.integrations._term_log import TermLog


def near_and_far(prediction: Tensor, target: Tensor) -> dict[str, tuple[Tensor, int]]:
    losses = F.cross_entropy(prediction, target, reduction="none")
    return {"near": (losses[:1].sum(), 1), "far": (losses[1:].sum(), len(losses) - 1)}


def test_parts_are_logged_by_name_as_means_over_all_predictions():
    torch.manual_seed(0)
    objective = aux.Objective(aux.Term(near_and_far, parts={"near": 1.0, "far": 0.5}))
    log, losses = TermLog(), []
    for size in (3, 5):
        x, y = torch.randn(size, 4), torch.randint(4, (size,))
        log.add(objective.from_output(x, y))
        losses.append(F.cross_entropy(x, y, reduction="none"))
    near, far = (losses[0][0] + losses[1][0]) / 2, torch.cat([losses[0][1:], losses[1][1:]]).mean()
    found = log.pop()
    assert set(found) == {"main_loss", "main_weight", "main.near_loss", "main.far_loss"}
    assert found["main.near_loss"] == pytest.approx(float(near))
    assert found["main.far_loss"] == pytest.approx(float(far))
    assert found["main_loss"] == pytest.approx(float(near + 0.5 * far))
    assert log.pop() == {}


def test_a_loss_of_unknown_count_is_logged():
    """In one process, without accumulation, it can be trained with."""
    torch.manual_seed(0)
    objective, log, losses = aux.Objective(aux.Term(lambda x, y: F.cross_entropy(x, y))), TermLog(), []
    for _ in range(2):
        x, y = torch.randn(3, 4), torch.randint(4, (3,))
        log.add(objective.from_output(x, y))
        losses.append(float(F.cross_entropy(x, y)))
    assert log.pop() == {"main_loss": pytest.approx(sum(losses) / 2), "main_weight": 1.0}
