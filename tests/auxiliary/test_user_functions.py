"""Exceptions of functions that the user wrote: the message names the term and the function."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from auxiliary.small_objective import TAPPED, X, Y, run
from auxiliary.test_objective import stack, term
from charladder import auxiliary as aux


class RaisesKeyError(nn.Module):
    def forward(self, *arguments):
        return raises_key_error()


def raises_key_error(*arguments):
    return {}["absent"]


USER_FUNCTIONS = {
    "select": (lambda: run(a=TAPPED(select=raises_key_error)), "term 'a': its select function"),
    "target": (lambda: run(a=TAPPED(target=raises_key_error)), "term 'a': its target function"),
    "mask": (lambda: run(a=TAPPED(mask=raises_key_error)), "term 'a': its mask function"),
    "weight of the progress": (
        lambda: run(a=TAPPED(weight=lambda t: raises_key_error()), call={"progress": 0.5}),
        "term 'a': its weight function",
    ),
    "weight of the step": (
        lambda: run(a=TAPPED(weight=lambda step: raises_key_error()), call={"step": 5}),
        "term 'a': its weight function",
    ),
    "count": (lambda: run(a=TAPPED(count=raises_key_error)), "term 'a': its count function"),
    "count of several batches": (
        lambda: aux.Objective(term(), {"a": TAPPED(count=raises_key_error)}).counts([Y]),
        "term 'a': its count function",
    ),
    "loss": (lambda: run(a=TAPPED(raises_key_error)), "term 'a': its loss"),
    "loss without a target": (lambda: run(a=TAPPED(raises_key_error, target=None)), "term 'a': its loss"),
    "loss module": (lambda: run(a=TAPPED(RaisesKeyError())), "term 'a': its loss"),
    "head": (lambda: run(a=TAPPED(head=RaisesKeyError())), "term 'a': its head"),
    "detached head": (lambda: run(a=TAPPED(head=RaisesKeyError(), detach_head=True)), "term 'a': its head"),
    "head factory": (
        lambda: aux.Objective(term(), {"a": TAPPED(head=raises_key_error)}).build(stack(), X),
        "term 'a': the function that makes its head",
    ),
    "rule": (lambda: run(rule=raises_key_error), "the rule"),
}


@pytest.mark.parametrize("role", USER_FUNCTIONS)
def test_error_of_user_function_names_term_and_role(role):
    call, subject = USER_FUNCTIONS[role]
    with pytest.raises(aux.AuxiliaryError) as error:
        call()
    assert str(error.value) == f"{subject} raised KeyError: 'absent'"
    assert isinstance(error.value.__cause__, KeyError)


def test_user_exceptions_without_message_and_from_the_library():
    def silent(targets):
        raise StopIteration

    def complete(targets):
        raise aux.AuxiliaryError("the sentence of a library function")

    with pytest.raises(aux.AuxiliaryError, match=r"^term 'a': its target function raised StopIteration$"):
        run(a=TAPPED(target=silent))
    with pytest.raises(
        aux.AuxiliaryError, match=r"^term 'a': its target function: the sentence of a library function$"
    ):
        run(a=TAPPED(target=complete))


def test_out_of_memory_error_is_unchanged():
    def greedy(prediction, target):
        raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError):
        run(a=TAPPED(greedy))


@pytest.mark.parametrize("inside", ["loss", "head", "target", "rule"])
def test_objective_inside_gradient_checkpointing(inside):
    """torch stops the recomputation with a private exception, which must pass through user functions unchanged."""
    model = stack()

    def half(*given):
        return checkpoint(lambda x: x.sin().cos(), given[0].float(), use_reentrant=False)

    def loss(prediction, target):
        if inside == "head":
            return prediction.mean()  # which saves nothing, so that the recomputation stops in the head
        return F.cross_entropy(half(prediction) if inside == "loss" else prediction, target)

    def target(y):
        half(model.out.weight)
        return y

    def rule(values):
        half(model.out.weight)
        return {}

    class Head(nn.Module):
        def forward(self, state):
            return half(state)

    def total(x):
        fields = {"target": {"target": target}, "head": {"head": Head()}}.get(inside, {})
        objective = aux.Objective(term(loss, **fields), rule=rule if inside == "rule" else None)
        return objective(model, x, Y).total

    checkpoint(total, X.clone().requires_grad_(), use_reentrant=False).backward()
    assert model.out.weight.grad.isfinite().all()
