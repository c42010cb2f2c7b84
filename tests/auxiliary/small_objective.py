"""A small objective in one call, for the tables of mistakes."""

from functools import partial

import torch
from torch import nn

from auxiliary.test_objective import stack, term
from charladder import auxiliary as aux

X, Y = torch.ones(6, 8), torch.zeros(6, dtype=torch.long)
HEAD = nn.Linear(8, 3)
TAPPED = partial(term, tap="layers.0", head=HEAD)


def run(main=None, model=None, inputs=X, targets=Y, call=None, rule=None, **terms):
    objective = aux.Objective(main or term(), terms, rule=rule)
    return objective(model or stack(), inputs, targets, **(call or {}))
