"""Compiled models: one graph for a whole schedule."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from auxiliary.test_objective import stack, term
from charladder import auxiliary as aux

DEPTH = 13  # the last layer has the main loss; the other twelve become inactive in turn
SLOW = [pytest.param(backend, marks=pytest.mark.slow) for backend in ("aot_eager", "inductor")]


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # in inductor's imports
@pytest.mark.parametrize("backend", ["eager", *SLOW])
def test_one_compiled_graph_while_layers_become_inactive(backend):
    torch.compiler.reset()
    torch.manual_seed(5)
    x, y = torch.randn(6, 8), torch.randint(0, 3, (6,))
    model = stack(depth=DEPTH)
    objective = aux.Objective(
        term(), aux.intermediate_terms(model, "layers.*", F.cross_entropy, head=nn.Linear(8, 3)), model=model
    )
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


def make_attached(model):
    return aux.Objective(term(), {"a": term(tap="layers.0", head=nn.Linear(8, 3))}, model=model)


@pytest.mark.parametrize("same", [False, True])
def test_error_for_graph_compiled_before_attach_names_cures(same):
    """torch.compile does not compile again for hooks, and uses one graph for all models of a class."""
    x, y = torch.randn(6, 8), torch.randint(0, 3, (6,))

    def run(reset=False):
        torch.compiler.reset()
        model, other = stack(), stack()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        (compiled if same else torch.compile(other, backend="eager", fullgraph=True))(x)
        objective = make_attached(model)
        if reset:
            torch.compiler.reset()
        head = objective.terms["a"].head
        expected = F.cross_entropy(head(model.layers[0](x)), y).item()
        return objective(compiled, x, y).terms["a"].value, expected

    with pytest.raises(aux.AuxiliaryError) as error:
        run()
    sentence = str(error.value)
    assert "made before the objective was attached, or for another model of the same class" in sentence
    assert "torch.compiler.reset() after attaching" in sentence and "skip_nnmodule_hook_guards = False" in sentence
    found, expected = run(reset=True)
    assert found == pytest.approx(expected)
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
        found, expected = run()
    assert found == pytest.approx(expected)


def test_compiled_models_of_one_class_have_separate_taps():
    torch.compiler.reset()
    x, y = torch.randn(6, 8), torch.randint(0, 3, (6,))
    models = [stack() for _ in range(3)]
    objectives = [make_attached(model) for model in models]
    for model, objective in zip(models, objectives, strict=True):
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        expected = F.cross_entropy(objective.terms["a"].head(model.layers[0](x)), y).item()
        assert objective(compiled, x, y).terms["a"].value == pytest.approx(expected)


def make_objectives(model):
    """An objective of several kinds of terms: a mean, values by element with a mask, a sum with a count, named parts,
    targets from a tap, from the output and from another network."""
    heads = [nn.Linear(8, 3) for _ in range(2)]

    def two_parts(p, t):
        return {"class": F.cross_entropy(p, t, reduction="none"), "size": (p.square().sum(), p.numel())}

    terms = {
        "mean": term(tap="layers.0", head=heads[0], weight=aux.schedules.linear(1.0, 0.0, until=0.5), target="labels"),
        "masked": term(
            lambda p, t: F.cross_entropy(p, t, reduction="none"),
            tap="layers.1", head=heads[1], mask="mask", target="labels",
        ),
        "feature": aux.Term(aux.losses.cosine, tap="layers.0", target=aux.tapped("layers.2"), weight=0.2),
        "output": aux.Term(aux.losses.kl, tap="layers.0", head=heads[0], target=aux.returned(), weight=0.1),
        "frozen": aux.Term(
            aux.losses.smooth_l1, tap="layers.1", target=aux.frozen(stack(), inputs="image", tap="layers.0"), weight=0.3
        ),
        "parts": term(two_parts, tap="layers.0", head=heads[0], parts={"class": 1.0, "size": 0.1}, target="labels"),
    }  # fmt: skip
    return aux.Objective(term(target="labels"), terms, model=model)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # in inductor's imports
@pytest.mark.parametrize("backend", ["eager", *SLOW])
@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.slow
def test_a_whole_step_is_one_graph(backend, captured):
    torch.compiler.reset()
    counters.clear()
    torch.manual_seed(5)
    model = stack(depth=3)
    objective = make_objectives(model)
    parameters = [*model.parameters(), *objective.parameters()]

    def loss(x, targets, progress):
        if not captured:
            report = objective(model, x, targets, progress=progress)
        else:
            with objective.capture():
                output = model(x)
            report = objective.from_output(output, targets, progress=progress)
        return report.total, {name: term.loss for name, term in report.terms.items()}

    compiled = torch.compile(loss, backend=backend, fullgraph=True)
    for step in range(8):
        labels = torch.randint(0, 3, (6,)).masked_fill(torch.arange(6) < step % 3, -100)
        targets = {"labels": labels, "mask": torch.rand(6) < 0.7, "image": torch.randn(6, 8)}
        x, progress = torch.randn(6, 8), step / 8
        found, expected = compiled(x, targets, progress), loss(x, targets, progress)
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(total, parameters, allow_unused=True) for total, _ in (found, expected)]
        torch.testing.assert_close(*gradients)
    # One for the first progress, one for any other, and one for the term whose weight becomes 0. A backend may run more
    # often than there are graphs, because torch starts again where a graph does not use the progress.
    assert counters["stats"]["unique_graphs"] == 3
