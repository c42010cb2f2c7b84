"""Existing training loops: captured forward passes, losses by name, and terms that are measured only."""

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from auxiliary.test_objective import stack
from charladder import auxiliary as aux


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(5)


def make(**fields) -> aux.Objective:
    early = aux.Term(F.cross_entropy, tap="layers.0", head=nn.Linear(8, 3), weight=0.3, **fields)
    return aux.Objective(aux.Term(F.cross_entropy), {"early": early})


def batch(size: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(size, 8), torch.randint(0, 3, (size,))


def test_captured_pass_equals_a_call_bitwise():
    model, objective, (x, y) = stack(), make(), batch()
    called = objective(model, x, y)
    with objective.capture():
        output = model(x)
    captured = objective.from_output(output, y)
    parameters = [*model.parameters(), *objective.parameters()]
    expected = torch.autograd.grad(called.total, parameters)
    assert torch.equal(captured.total, called.total)
    for actual, wanted in zip(torch.autograd.grad(captured.total, parameters), expected, strict=True):
        assert torch.equal(actual, wanted)


def test_output_is_in_the_report_of_a_call():
    model, (x, y) = stack(), batch()
    assert torch.equal(make()(model, x, y).output, model(x))


def test_losses_add_up_to_the_total():
    model, objective, (x, y) = stack(), make(), batch()
    report = objective(model, x, y)
    assert torch.equal(report.losses["main"] + 0.3 * report.losses["early"], report.total)
    gradient = torch.autograd.grad(report.losses["early"], objective.heads["early"].weight, retain_graph=True)[0]
    expected = torch.autograd.grad(report.total, objective.heads["early"].weight)[0]
    torch.testing.assert_close(0.3 * gradient, expected)


def test_losses_of_micro_batches_add_up_to_those_of_the_batch():
    model, objective, (x, y) = stack(), make(), batch(6)
    whole = objective(model, x, y).losses
    counts = objective.counts([y[:2], y[2:]])
    parts = [objective(model, x[rows], y[rows], counts=counts).losses for rows in (slice(2), slice(2, 6))]
    for name, loss in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], loss)


def test_capture_attaches_to_the_model_that_is_given():
    model, objective, (x, y) = stack(), make(), batch()
    with objective.capture(model):
        output = model(x)
    assert set(objective.from_output(output, y).terms) == {"main", "early"}


def test_capture_needs_a_model():
    message = r"attached to no model; call attach\(model\) first, or capture"
    with pytest.raises(aux.AuxiliaryError, match=message), make().capture():
        pass


def test_from_output_needs_a_captured_pass():
    model, objective, (x, y) = stack(), make(), batch()
    objective.attach(model)
    with pytest.raises(aux.AuxiliaryError, match=r"term 'early' reads the module layers.0, and this"):
        objective.from_output(model(x), y)


def test_second_pass_inside_a_capture_is_ambiguous():
    model, objective, (x, y) = stack(), make(), batch()
    with objective.capture(model):
        model(x)
        output = model(x)
    with pytest.raises(aux.AuxiliaryError, match=r"the model calls its tap layers\.0 2 times"):
        objective.from_output(output, y)


def test_a_pass_that_fails_is_not_captured():
    model, objective, (x, y) = stack(), make(), batch()
    with objective.capture(model):
        output = model(x)
    with pytest.raises(RuntimeError), objective.capture():
        model(x[:, :3])
    with pytest.raises(aux.AuxiliaryError, match="this forward pass was not captured"):
        objective.from_output(output, y)


def test_each_thread_captures_its_own_pass():
    model, objective, (x, y) = stack(), make(), batch()
    with objective.capture(model):
        output = model(x)
    thread = threading.Thread(target=lambda: capture_another(model, objective))
    thread.start()
    thread.join()
    assert torch.equal(objective.from_output(output, y).total, objective(model, x, y).total)


def capture_another(model, objective):
    with objective.capture():
        model(torch.zeros(2, 8))


def test_a_copy_has_no_captured_pass():
    model, objective, (x, _) = stack(), make(), batch()
    with objective.capture(model):
        model(x)
    assert copy.deepcopy(objective).taps.recorder.captured is None


def test_only_some_terms_are_measured():
    model, objective, (x, y) = stack(), make(), batch()
    report = objective(model, x, y, only=["main"])
    assert set(report.terms) == {"main"}
    assert torch.equal(report.total, F.cross_entropy(model(x), y))
    assert set(objective(model, x, y, only="early").terms) == {"early"}
    with pytest.raises(aux.AuxiliaryError, match=r"only has 'erly', and there is no such term; the nearest are early"):
        objective(model, x, y, only=["erly"])


def test_a_term_that_is_not_measured_needs_no_progress():
    early = aux.Term(F.cross_entropy, tap="layers.0", head=nn.Linear(8, 3), weight=aux.schedules.until(0.5))
    objective, (x, y) = aux.Objective(aux.Term(F.cross_entropy), {"early": early}), batch()
    assert set(objective(stack(), x, y, only=["main"]).terms) == {"main"}


def test_an_inactive_term_is_measured_without_gradients():
    model, (x, y) = stack(), batch()
    early = aux.Term(F.cross_entropy, tap="layers.0", head=nn.Linear(8, 3), weight=0, measure=True)
    objective = aux.Objective(aux.Term(F.cross_entropy), {"early": early})
    report = objective(model, x, y)
    assert torch.equal(report.total, F.cross_entropy(model(x), y))
    assert report.terms["early"].weight == 0
    assert report.terms["early"].value == float(F.cross_entropy(early.head(model.layers[0](x)), y).detach())
    assert set(report.losses) == {"main"}
    report.total.backward()
    assert early.head.weight.grad is None
    assert set(objective(model, x, y, only=["main"]).terms) == {"main"}


def test_a_measured_term_that_is_not_finite_does_not_end_the_training():
    model, (x, y) = stack(), batch()
    broken = aux.Term(lambda p, t: (p.sum() * torch.nan, 1), tap="layers.0", weight=0, measure=True)
    report = aux.Objective(aux.Term(F.cross_entropy), {"broken": broken})(model, x, y)
    assert report.terms["broken"].value != report.terms["broken"].value


def test_a_head_of_several_terms_runs_once():
    model, (x, y), head, calls = stack(), batch(), nn.Linear(8, 3), []
    head.register_forward_hook(lambda *_: calls.append(1))
    terms = {
        "hard": aux.Term(F.cross_entropy, tap="layers.0", head=head, weight=0.3),
        "smooth": aux.Term(nn.CrossEntropyLoss(label_smoothing=0.1), tap="layers.0", head=head, weight=0.2),
        "other": aux.Term(F.cross_entropy, tap="layers.1", head=head, weight=0.1),
    }
    report = aux.Objective(aux.Term(F.cross_entropy), terms)(model, x, y)
    assert len(calls) == 2
    low, high = head(model.layers[0](x)), head(model.layers[1](model.layers[0](x)))
    by_hand = F.cross_entropy(model(x), y) + 0.3 * F.cross_entropy(low, y)
    by_hand = by_hand + 0.2 * F.cross_entropy(low, y, label_smoothing=0.1) + 0.1 * F.cross_entropy(high, y)
    assert torch.equal(report.total, by_hand)


def test_from_output_of_a_pass_that_was_not_captured():
    """After a report of the captured pass, the taps of that pass are not those of a later one."""
    model, objective, (x, y) = stack(), make(), batch()
    objective.attach(model)
    with objective.capture():
        output = model(x)
    model(x + 1)  # before the report: the captured pass is the one that counts
    first = objective.from_output(output, y)
    assert torch.equal(objective.from_output(output, y).total, objective(model, x, y).total)
    first.total.backward()
    for run_again in (lambda: model(x + 1), lambda: objective(model, x + 1, y).output):
        other = run_again()
        with pytest.raises(aux.AuxiliaryError, match="and this forward pass was not captured"):
            objective.from_output(other, y)
        assert set(objective.from_output(other, y, only=["main"]).terms) == {"main"}


def test_a_checkpointed_pass_is_read_again_after_its_backward():
    inner = nn.Sequential(nn.Linear(8, 8), nn.Tanh())

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.out = inner, nn.Linear(8, 3)

        def forward(self, x):
            return self.out(checkpoint(self.inner, x, use_reentrant=False))

    model, (x, y) = Model(), batch()
    early = aux.Term(F.cross_entropy, tap="inner", head=nn.Linear(8, 3))
    objective = aux.Objective(aux.Term(F.cross_entropy), {"early": early}, model=model)
    with objective.capture():
        output = model(x)
    report = objective.from_output(output, y)
    report.total.backward()  # runs `inner` again
    assert objective.from_output(output.detach(), y).terms["early"].value == report.terms["early"].value


@pytest.mark.parametrize("inner", ["capture", "call"])
def test_recording_inside_capture_is_refused(inner):
    model, objective, (x, y) = stack(), make(), batch()
    objective.attach(model)
    with (
        pytest.raises(aux.AuxiliaryError, match="this objective is already recording a forward pass"),
        objective.capture(),
    ):
        if inner == "call":
            objective(model, x, y)
        with objective.capture():
            model(x)
    with objective.capture():
        output = model(x)
    assert torch.equal(objective.from_output(output, y).total, objective(model, x, y).total)
