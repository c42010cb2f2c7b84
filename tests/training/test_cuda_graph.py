"""When steps are recorded as CUDA graphs, and that replayed ones are the same steps."""

import contextlib

import pytest
import torch

from charladder.auxiliary import Report, TermReport
from charladder.errors import UserError
from charladder.objective import ObjectiveConfig, language_model
from charladder.training import CaptureFailed, cuda_graph, train
from charladder.training.cuda_graph import CapturedStep, StepGraph
from helpers import make_trainer, small

# torch's compiler looks at the gradient of what blocks are given, and torch warns of it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch\\._inductor"),  # of what would be faster
]
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


class Graph:
    """Stands for a CUDA graph: doubles its input, as the recorded passes did."""

    def __init__(self, given, numbers, gradient):
        self.given, self.numbers, self.gradient = given, numbers, gradient

    def replay(self):
        self.numbers[0] = 2 * self.given.sum()
        self.gradient.copy_(2 * self.given)


def recorder_of(monkeypatch, made):
    parameter = torch.nn.Parameter(torch.zeros(2))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)

    def record(parameters, inputs, run):
        made.append(run)
        own, numbers, gradient = [one.clone() for one in inputs], torch.tensor([0.0, 3.0, 5.0]), torch.zeros(2)
        terms = {"main": TermReport(torch.zeros(()), 4, 1.0)}
        graph = Graph(own[0], numbers, gradient)
        return CapturedStep(graph, own, numbers, Report(torch.zeros(()), terms), [(parameter, gradient)])

    monkeypatch.setattr(cuda_graph, "capture_step", record)
    return StepGraph([parameter]), parameter


def test_a_step_is_recorded_when_its_like_comes_again_and_replayed_with_new_inputs(monkeypatch):
    made: list[str] = []
    recorder, parameter = recorder_of(monkeypatch, made)
    x = torch.tensor([1.0, 2.0])
    assert recorder("a", [x], "first") is None
    assert recorder("a", [x], "second")[0].total == 6
    found, norm = recorder("a", [3 * x], "third")
    assert (found.total, norm, found.terms["main"].value) == (18, 3.0, 1.25)
    assert parameter.grad.tolist() == [6.0, 12.0]
    assert made == ["second"]
    for key in "bcd":  # another one at every step
        assert recorder(key, [x], key) is None
    assert recorder("d", [x], "again") is not None
    assert made == ["second", "again"]


def test_what_cannot_be_recorded_is_not_tried_again(monkeypatch):
    def record(*_):
        raise torch.OutOfMemoryError("no room\nat all")

    monkeypatch.setattr(cuda_graph, "capture_step", record)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
    recorder = StepGraph([torch.nn.Parameter(torch.zeros(1))])
    assert [recorder("a", [], None) for _ in range(3)] == [None] * 3
    assert recorder.failure == "no room"


def test_a_recording_is_given_up_where_other_passes_would_not_fit_beside_it(monkeypatch):
    made: list = []
    recorder, _ = recorder_of(monkeypatch, made)
    free = [1000]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free[0], 4000))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 900)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    x, replayed = torch.ones(2), []
    for step in range(9):
        if step in (4, 6):  # another kind of step
            recorder.free_memory_for_eager_step()
            replayed.append(None)
        else:
            recorder("a", [x], step)
            replayed.append(recorder.is_replayed)
        if step == 5:
            free[0] = 800
    assert replayed == [False, False, True, True, None, True, None, False, False]
    assert made == [1, 8]


def test_what_a_run_cannot_record_it_says_once(prose, tmp_path):
    trainer = make_trainer(prose, steps=5)
    trainer.step_graph = StepGraph([], failure="no room")
    events = [event for event in train(trainer, tmp_path) if isinstance(event, CaptureFailed)]
    assert events == [CaptureFailed("no room")]


def test_graphs_are_refused_where_they_cannot_be(prose):
    with pytest.raises(UserError, match=r"one process, and for networks without model\.ngrams"):
        make_trainer(prose, model=small(ngrams=4, ngram_rows=101), compile="graphs")


def test_passes_are_those_of_the_objective(prose):
    """What is recorded, taken as it is: the gradient that a step has; and what tells one recording from another."""
    trainer, other = make_trainer(prose, diagnose_every=0), make_trainer(prose, diagnose_every=0)
    windows, examples = trainer.windows.take(4, 1, 0, 1)
    piece = trainer.to_device(torch.from_numpy(windows))
    key, inputs, run = trainer.graph_inputs(piece, trainer.make_dropout(examples), 0.0)
    report = run(*inputs)
    [expected] = other.accumulate_gradients(0.0)
    assert report.value == expected.value
    for mine, theirs in zip(trainer.parameters, other.parameters, strict=True):
        assert torch.equal(mine.grad, theirs.grad)
    assert trainer.graph_inputs(piece, None, 0.0)[0] == key
    assert trainer.graph_inputs(piece, None, 0.3)[0] != key  # a layer is silent
    assert trainer.graph_inputs(piece[:2], None, 0.0)[0] != key
    trainer.network.angles(0, 99, trainer.device)  # somebody has asked for a longer table
    assert trainer.graph_inputs(piece, None, 0.0)[0] != key


@pytest.mark.parametrize("positions", ["rotary", "sinusoidal"])
def test_a_recording_is_of_the_position_table_that_it_reads(prose, positions):
    trainer = make_trainer(prose, model=small(positions=positions))
    piece = torch.zeros(4, 18, dtype=torch.long)
    key = trainer.graph_inputs(piece, None, 0.0)[0]
    assert trainer.graph_inputs(piece, None, 0.0)[0] == key
    trainer.network(torch.zeros(1, 40, dtype=torch.long))  # past the context: the table is made anew, longer
    assert trainer.graph_inputs(piece, None, 0.0)[0] != key


def test_on_a_cpu_nothing_is_recorded(prose):
    assert make_trainer(prose, compile="blocks", device="cpu").step_graph is None
    assert make_trainer(prose, device="cpu").step_graph is None


def test_a_recording_has_the_gradient_of_one_batch_and_the_numbers_of_its_report(prose, monkeypatch):
    """With a GPU's part left out: the passes are taken twice, and what is kept is of the second."""

    class Stand:
        def __init__(self, *_):
            pass

        def wait_stream(self, other):
            pass

    for name in ("current_stream", "Stream", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, Stand)
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: contextlib.nullcontext())
    trainer, other = make_trainer(prose, diagnose_every=0), make_trainer(prose, diagnose_every=0)
    piece = torch.from_numpy(trainer.windows.take(4, 1, 0, 1)[0])
    _, inputs, run = trainer.graph_inputs(piece, None, 0.0)
    made = cuda_graph.capture_step(trainer.parameters, inputs, run)
    [report] = other.accumulate_gradients(0.0)
    expected = {name: p.grad for name, p in other.network.named_parameters() if p.grad is not None}
    norm = torch.nn.utils.get_total_norm([p.grad for p in other.parameters if p.grad is not None])
    assert made.inputs[0] is not inputs[0] and torch.equal(made.inputs[0], piece)
    assert made.scalars.tolist() == pytest.approx(
        [float(report.total.detach()), float(norm), *(float(term.loss) for term in report.terms.values())], rel=1e-6
    )
    got = {id(parameter): gradient for parameter, gradient in made.gradients}
    for name, parameter in trainer.network.named_parameters():
        assert torch.equal(got[id(parameter)], expected[name])


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
        },  # other weights at each step at first
    ],
    ids=["modern", "paper", "sinusoidal", "diagnosed", "fading"],
)
@pytest.mark.parametrize("logits", [1 << 26, 0], ids=["at once", "layer by layer"])
def test_replayed_steps_are_the_steps(prose, changes, logits, monkeypatch):
    """Layers fall silent on the way; losses and norms of every step, and the weights after them."""
    monkeypatch.setattr(language_model, "MAX_LOGIT_BYTES", logits)
    fields = {"steps": 24, "device": "cuda", "diagnose_every": 0} | changes
    plain, replayed = (make_trainer(prose, compile=compile, **fields) for compile in ("blocks", "graphs"))
    counted = [0]

    def count(*given, call=replayed.step_graph.__call__):
        found = call(*given)
        counted[0] += found is not None
        return found

    replayed.step_graph = type("Counting", (), {"__call__": staticmethod(count)})()
    for _ in range(24):
        one, other = plain.step(), replayed.step()
        assert other.report.value == pytest.approx(one.report.value, rel=1e-3)
        assert other.gradient_norm == pytest.approx(one.gradient_norm, rel=2e-2)
        assert list(other.report.terms) == list(one.report.terms)
    for mine, theirs in zip(replayed.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-2)
    assert counted[0] > 8


@on_gpu
def test_a_run_with_replayed_steps_goes_on_where_it_was(prose):
    whole, first, second = (make_trainer(prose, steps=12, device="cuda", compile="graphs") for _ in range(3))
    for _ in range(12):
        last = whole.step()
    for _ in range(6):
        first.step()
    second.restore(first.checkpoint())
    for _ in range(6):
        other = second.step()
    assert other.report.value == pytest.approx(last.report.value, rel=1e-3)
