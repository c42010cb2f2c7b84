"""Looped networks, which call the same modules several times: a loss at every outer step."""

from collections.abc import Callable
from typing import Any

from torch import nn

from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._term import MAIN, Term
from charladder.auxiliary.presets._arguments import checked
from charladder.auxiliary.weights import Weight


@checked
def looped(
    loss: Callable[..., Any],
    tap: str,
    steps: int,
    *,
    head: nn.Module | str | None = None,
    weight: Weight | None = None,
    labels: str = MAIN,
    **fields: Any,
) -> dict[str, Term]:
    """Deep supervision of a looped network: the loss of the prediction after each outer step but the last.

    Wang et al. 2025 (HRM, arXiv 2506.21734), "Hierarchical Reasoning Model", and Jolicoeur-Martineau 2025 (TRM, arXiv
    2510.04871), "Less is More: Recursive Reasoning with Tiny Networks". Rule: the network refines a state in outer
    steps, the same loss is taken after each, and the state is detached between them, so that the gradient of a step
    ends at its start. Both update the weights after each outer step; docs/representation-losses.md shows that loop,
    which needs no preset. This preset is for a model that makes all its outer steps in one forward pass: the total is
    the mean of the losses of all steps. The model detaches its state; if it does not, gradients flow through all steps.
    Found: 45% on ARC-AGI-1 with 7 million parameters (TRM). The ARC Prize's analysis of HRM (arcprize.org/blog/
    hrm-analysis) finds that the outer loop explains most of its result: 13 points more with two outer steps than with
    one, twice as much with eight; the hierarchy of its modules explains little. Against it: 32% on hidden tasks instead
    of the published 41%, and most of that comes from training on the tasks that are evaluated.

    tap: the module that is called once in each outer step, for example the model's own output head. head: a module that
    all steps share, or the name of one of the model's. steps: the number of outer steps; the terms are step1, step2 and
    so on, and the last step has the main term. weight: of each term, 1 / steps unless given; give the main term the
    same one. labels: the entry of `targets` with the target, if `targets` is a mapping. fields: as in Term.
    Raises AuxiliaryError for fewer than 2 steps.

    >>> import torch
    >>> from charladder import auxiliary as aux
    >>> class Loop(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.refine, self.answer = nn.Linear(8, 4), nn.Linear(4, 3)
    ...
    ...     def forward(self, x):
    ...         state = torch.zeros(len(x), 4)
    ...         for _ in range(3):
    ...             state = self.refine(torch.cat([x, state.detach()], 1)).tanh()
    ...             answer = self.answer(state)
    ...         return answer
    >>> loss = nn.functional.cross_entropy
    >>> objective = aux.Objective(aux.Term(loss, weight=1 / 3), looped(loss, "answer", steps=3))
    >>> report = objective(Loop(), torch.randn(6, 4), torch.randint(3, (6,)))
    >>> [(name, round(term.weight, 2)) for name, term in report.terms.items()]
    [('main', 0.33), ('step1', 0.33), ('step2', 0.33)]
    """
    if steps < 2:
        raise AuxiliaryError(f"looped has steps={steps}; a looped network has at least 2, the last with the main loss")
    shared: dict[str, Any] = {"weight": 1 / steps if weight is None else weight, "target_name": labels, **fields}
    return {f"step{at + 1}": Term(loss, tap=tap, call=at, head=head, **shared) for at in range(steps - 1)}
