"""When steps are captured as CUDA graphs, and that replayed steps give the same results."""

import contextlib

import pytest
import torch

from charladder.auxiliary import Report, TermReport
from charladder.errors import UserError
from charladder.objective import ObjectiveConfig, language_model
from charladder.training import CaptureFailed, train
from charladder.training.step_graph import CapturedStep, StepGraph, capture_step
from helpers import make_trainer, small

# torch.compile reads the gradient of the inputs of the blocks, and torch warns about that.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch\\._inductor"),  # about possible speed-ups
]
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


class FakeGraph:
    """A substitute for torch.cuda.CUDAGraph, whose replay doubles the input."""

    def __init__(self, source, scalars, gradient):
        self.source, self.scalars, self.gradient = source, scalars, gradient

    def replay(self):
        self.scalars[0] = 2 * self.source.sum()
        self.gradient.copy_(2 * self.source)


def make_step_graph(monkeypatch, captures):
    """A StepGraph that captures FakeGraph objects, and its parameter. The functions of captured steps go to
    `captures`."""
    parameter = torch.nn.Parameter(torch.zeros(2))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)

    def capture(parameters, inputs, run):
        captures.append(run)
        copies, scalars, gradient = [one.clone() for one in inputs], torch.tensor([0.0, 3.0, 5.0]), torch.zeros(2)
        terms = {"main": TermReport(torch.zeros(()), 4, 1.0)}
        graph = FakeGraph(copies[0], scalars, gradient)
        return CapturedStep(graph, copies, scalars, Report(torch.zeros(()), terms), [(parameter, gradient)])

    monkeypatch.setattr("charladder.training.step_graph.capture_step", capture)
    return StepGraph([parameter]), parameter


def test_a_step_is_captured_when_its_key_repeats_and_replayed_with_new_inputs(monkeypatch):
    captures: list[str] = []
    step_graph, parameter = make_step_graph(monkeypatch, captures)
    x = torch.tensor([1.0, 2.0])
    assert step_graph("a", [x], "first") is None
    assert step_graph("a", [x], "second")[0].total == 6
    report, norm = step_graph("a", [3 * x], "third")
    assert (report.total, norm, report.terms["main"].value) == (18, 3.0, 1.25)
    assert parameter.grad.tolist() == [6.0, 12.0]
    assert captures == ["second"]
    for key in "bcd":  # another key at every step
        assert step_graph(key, [x], key) is None
    assert step_graph("d", [x], "again") is not None
    assert captures == ["second", "again"]


def test_a_failed_capture_is_not_tried_again(monkeypatch):
    def capture(*_):
        raise torch.OutOfMemoryError("no room\nat all")

    monkeypatch.setattr("charladder.training.step_graph.capture_step", capture)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
    step_graph = StepGraph([torch.nn.Parameter(torch.zeros(1))])
    assert [step_graph("a", [], None) for _ in range(3)] == [None] * 3
    assert step_graph.failure == "no room"


def test_a_graph_is_released_if_an_eager_step_would_not_fit_into_memory(monkeypatch):
    captures: list = []
    step_graph, _ = make_step_graph(monkeypatch, captures)
    free = [1000]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free[0], 4000))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 900)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    x, replayed = torch.ones(2), []
    for step in range(9):
        if step in (4, 6):  # an eager step
            step_graph.free_memory_for_eager_step()
            replayed.append(None)
        else:
            step_graph("a", [x], step)
            replayed.append(step_graph.is_replayed)
        if step == 5:
            free[0] = 800
    assert replayed == [False, False, True, True, None, True, None, False, False]
    assert captures == [1, 8]


def test_a_failed_capture_is_reported_once(prose, tmp_path):
    trainer = make_trainer(prose, steps=5)
    trainer.step_graph = StepGraph([], failure="no room")
    events = [event for event in train(trainer, tmp_path) if isinstance(event, CaptureFailed)]
    assert events == [CaptureFailed("no room")]


def test_graphs_are_refused_with_ngram_embeddings(prose):
    with pytest.raises(UserError, match=r"needs a single process and no model\.ngrams"):
        make_trainer(prose, model=small(ngrams=4, ngram_rows=101), compile="graphs")


def test_graph_inputs_give_the_gradient_of_a_step_and_a_key_of_weights_and_shapes(prose):
    """The function of both passes is called eagerly here."""
    trainer, other = make_trainer(prose, diagnose_every=0), make_trainer(prose, diagnose_every=0)
    windows, examples = trainer.windows.take(4, 1, 0, 1)
    batch = trainer.to_device(torch.from_numpy(windows))
    key, inputs, run = trainer.graph_inputs(batch, trainer.make_dropout(examples), 0.0)
    report = run(*inputs)
    [expected] = other.accumulate_gradients(0.0)
    assert report.value == expected.value
    for parameter, other_parameter in zip(trainer.parameters, other.parameters, strict=True):
        assert torch.equal(parameter.grad, other_parameter.grad)
    assert trainer.graph_inputs(batch, None, 0.0)[0] == key
    assert trainer.graph_inputs(batch, None, 0.3)[0] != key  # the weight of a loss is 0 now
    assert trainer.graph_inputs(batch[:2], None, 0.0)[0] != key
    trainer.network.angles(0, 99, trainer.device)  # replaces the table by a longer one
    assert trainer.graph_inputs(batch, None, 0.0)[0] != key


@pytest.mark.parametrize("positions", ["rotary", "sinusoidal"])
def test_the_key_changes_with_the_position_table(prose, positions):
    trainer = make_trainer(prose, model=small(positions=positions))
    batch = torch.zeros(4, 18, dtype=torch.long)
    key = trainer.graph_inputs(batch, None, 0.0)[0]
    assert trainer.graph_inputs(batch, None, 0.0)[0] == key
    trainer.network(torch.zeros(1, 40, dtype=torch.long))  # longer than the context, which needs a longer table
    assert trainer.graph_inputs(batch, None, 0.0)[0] != key


def test_nothing_is_captured_on_a_cpu(prose):
    assert make_trainer(prose, compile="blocks", device="cpu").step_graph is None
    assert make_trainer(prose, device="cpu").step_graph is None


def test_capture_step_returns_gradients_of_one_batch_and_scalars_of_its_report(prose, monkeypatch):
    """Without a GPU: streams and graphs are replaced. The passes run twice; gradients must be those of the second
    run."""

    class Substitute:
        def __init__(self, *_):
            pass

        def wait_stream(self, other):
            pass

    for name in ("current_stream", "Stream", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, Substitute)
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: contextlib.nullcontext())
    trainer, other = make_trainer(prose, diagnose_every=0), make_trainer(prose, diagnose_every=0)
    batch = torch.from_numpy(trainer.windows.take(4, 1, 0, 1)[0])
    _, inputs, run = trainer.graph_inputs(batch, None, 0.0)
    captured = capture_step(trainer.parameters, inputs, run)
    [report] = other.accumulate_gradients(0.0)
    expected = {name: p.grad for name, p in other.network.named_parameters() if p.grad is not None}
    norm = torch.nn.utils.get_total_norm([p.grad for p in other.parameters if p.grad is not None])
    assert captured.inputs[0] is not inputs[0] and torch.equal(captured.inputs[0], batch)
    assert captured.scalars.tolist() == pytest.approx(
        [float(report.total.detach()), float(norm), *(float(term.loss) for term in report.terms.values())], rel=1e-6
    )
    gradients = {id(parameter): gradient for parameter, gradient in captured.gradients}
    for name, parameter in trainer.network.named_parameters():
        assert torch.equal(gradients[id(parameter)], expected[name])


@on_gpu
@pytest.mark.parametrize(
    "changes",
    [
        {"model": small(layers=3)},
        {"model": small(layers=4, block="paper", positions="tables", dropout=0.3), "clip": 0.05},
        {"model": small(layers=3, positions="sinusoidal")},
        {"model": small(layers=3), "optimizer": "momentum", "diagnose_every": 4},
        {
            "model": small(layers=3),
            "objective": ObjectiveConfig(intermediate_schedule="fade"),
        },  # at first the weights change at each step
    ],
    ids=["modern", "paper", "sinusoidal", "diagnosed", "fading"],
)
@pytest.mark.parametrize("logits", [1 << 26, 0], ids=["at once", "layer by layer"])
def test_replayed_steps_equal_eager_steps(prose, changes, logits, monkeypatch):
    """Compares losses and gradient norms of every step, and the last weights. Weights of losses become 0 meanwhile."""
    monkeypatch.setattr(language_model, "MAX_LOGIT_BYTES", logits)
    fields = {"steps": 24, "device": "cuda", "diagnose_every": 0} | changes
    eager, replayed = (make_trainer(prose, compile=compile, **fields) for compile in ("blocks", "graphs"))
    replays = [0]

    def count(*arguments, call=replayed.step_graph.__call__):
        result = call(*arguments)
        replays[0] += result is not None
        return result

    replayed.step_graph = type("Counting", (), {"__call__": staticmethod(count)})()
    for _ in range(24):
        expected, result = eager.step(), replayed.step()
        assert result.report.value == pytest.approx(expected.report.value, rel=1e-3)
        assert result.gradient_norm == pytest.approx(expected.gradient_norm, rel=2e-2)
        assert list(result.report.terms) == list(expected.report.terms)
    for a, b in zip(replayed.network.parameters(), eager.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-2)
    assert replays[0] > 8


@on_gpu
def test_a_run_with_replayed_steps_resumes(prose):
    uninterrupted, first, second = (make_trainer(prose, steps=12, device="cuda", compile="graphs") for _ in range(3))
    for _ in range(12):
        expected = uninterrupted.step()
    for _ in range(6):
        first.step()
    second.restore(first.checkpoint())
    for _ in range(6):
        result = second.step()
    assert result.report.value == pytest.approx(expected.report.value, rel=1e-3)
