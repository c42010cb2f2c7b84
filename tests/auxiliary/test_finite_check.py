"""Checks for NaN and infinity: at once, or deferred, so that the host does not wait for an accelerator."""

import copy
import pickle

import pytest
import torch

from auxiliary.test_objective import stack, term
from charladder import auxiliary as aux

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def scaled_loss(prediction, target):
    """A loss that is not finite where the target is not."""
    return (prediction.abs() * target[:, None]).sum(), len(target)


def make_objective(**options):
    early = term(scaled_loss, tap="layers.0", weight=0.5, target="scale")
    return aux.Objective(term(target="labels"), {"early": early}, **options)


def make_batch(scale=1.0, device="cpu"):
    labels = torch.randint(0, 3, (6,), device=device)
    return torch.randn(6, 8, device=device), {"labels": labels, "scale": torch.full((6,), scale, device=device)}


def test_deferred_check_raises_at_the_next_call():
    model, objective = stack(), make_objective(check="deferred")
    objective(model, *make_batch(torch.nan))  # not raised yet
    with pytest.raises(
        aux.NotFiniteError, match=r"^term 'early' is nan \(its weight is 0.5\), in a call before"
    ) as error:
        objective(model, *make_batch())
    assert error.value.term == "early"
    objective(model, *make_batch())
    objective.finish_checks()


def test_finish_checks_raises_for_the_last_call():
    model, objective = stack(), make_objective(check="deferred")
    objective(model, *make_batch())
    objective(model, *make_batch(torch.inf))
    with pytest.raises(aux.NotFiniteError, match="'early' is inf"):
        objective.finish_checks()
    objective.finish_checks()


def test_auto_checks_at_once_on_a_cpu():
    with pytest.raises(aux.NotFiniteError, match=r"\(its weight is 0.5\)$"):
        make_objective()(stack(), *make_batch(torch.nan))
    make_objective(check=False)(stack(), *make_batch(torch.nan))


def test_copies_have_no_pending_checks():
    objective = make_objective(check="deferred")
    objective(stack(), *make_batch(torch.nan))
    for other in (copy.deepcopy(objective), pickle.loads(pickle.dumps(objective))):
        other.finish_checks()
        other.attach(model := stack())
        other(model, *make_batch(torch.nan))
        with pytest.raises(aux.NotFiniteError):
            other.finish_checks()


def test_unknown_mode_is_refused():
    with pytest.raises(aux.AuxiliaryError, match="check is 'later'; it must be True, False,"):
        make_objective(check="later")


@needs_gpu
def test_deferred_check_does_not_wait_for_the_gpu():
    model, objective = stack().cuda(), make_objective().cuda()
    objective(model, *make_batch(device="cuda"))  # attaches and allocates
    batch = make_batch(torch.nan, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        objective(model, *batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with pytest.raises(aux.NotFiniteError, match="'early' is nan"):
        objective.finish_checks()
