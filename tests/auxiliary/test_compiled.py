"""Compiled models: one graph serves a whole schedule."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from auxiliary.test_objective import stack, term
from charladder import auxiliary as aux

DEPTH = 13  # the last layer has the main loss, and twelve fall silent one by one
SLOW = [pytest.param(backend, marks=pytest.mark.slow) for backend in ("aot_eager", "inductor")]


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # in inductor's imports
@pytest.mark.parametrize("backend", ["eager", *SLOW])
def test_one_graph_while_layers_fall_silent_one_by_one(backend):
    torch.compiler.reset()
    torch.manual_seed(5)
    x, y = torch.randn(6, 8), torch.randint(0, 3, (6,))
    model = stack(depth=DEPTH)
    objective = aux.Objective(term(), aux.rungs(model, "layers.*", F.cross_entropy, head=nn.Linear(8, 3)), model=model)
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    parameters = [*model.parameters(), *objective.parameters()]
    active = []
    for step in range(DEPTH):
        report = objective(compiled, x, y, progress=step / (2 * DEPTH))
        found = torch.autograd.grad(report.total, parameters, allow_unused=True)
        plain = objective(model, x, y, progress=step / (2 * DEPTH))
        wanted = torch.autograd.grad(plain.total, parameters, allow_unused=True)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other)
        active.append(len(report.terms) - 1)
    assert active == list(range(DEPTH - 1, -1, -1))
    assert counter.frame_count == 1
