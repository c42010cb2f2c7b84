"""Targets that come from the network itself or from another network, against formulas written by hand."""

import copy
import gc
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from auxiliary.test_objective import stack
from charladder import auxiliary as aux


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(5)


X, Y = torch.randn(6, 8), torch.tensor([0, 1, 2, 0, 1, 2])


def grads(total, *modules):
    parameters = [p for module in modules for p in module.parameters()]
    return torch.autograd.grad(total, parameters, allow_unused=True)


@pytest.mark.parametrize("detach", [True, False])
def test_tapped_target(detach):
    model, head = stack(), nn.Linear(8, 8)
    hint = aux.Term(
        aux.losses.cosine, tap="layers.0", head=head, target=aux.tapped("layers.2", detach=detach), weight=0.5
    )
    report = aux.Objective(aux.Term(F.cross_entropy), {"hint": hint})(model, X, Y)
    low = model.layers[0](X)
    high = model.layers[2](model.layers[1](low))
    target = high.detach() if detach else high
    cosine = 1 - F.cosine_similarity(head(low), target, dim=-1)
    by_hand = F.cross_entropy(model.out(high), Y) + 0.5 * cosine.sum() / 6
    torch.testing.assert_close(report.total, by_hand)
    for actual, expected in zip(grads(report.total, model, head), grads(by_hand, model, head), strict=True):
        torch.testing.assert_close(actual, expected)


def test_returned_target_is_self_distillation():
    model, head = stack(), nn.Linear(8, 3)
    loss = partial(aux.losses.kl, temperature=2.0)
    distill = aux.Term(loss, tap="layers.0", head=head, target=aux.returned(), weight=0.5)
    report = aux.Objective(aux.Term(F.cross_entropy), {"distill": distill})(model, X, Y)
    logits, early = model(X), head(model.layers[0](X))
    p = (logits.detach() / 2).softmax(-1)
    kl = 4 * (p * (p.log() - (early / 2).log_softmax(-1))).sum(-1).mean()
    torch.testing.assert_close(report.total, F.cross_entropy(logits, Y) + 0.5 * kl)


def test_frozen_target_reads_the_inputs_of_the_model():
    model, encoder = stack(), nn.Sequential(nn.Linear(8, 5), nn.Dropout(0.5))
    before = [p.clone() for p in encoder.parameters()]
    repa = aux.Term(
        aux.losses.smooth_l1, tap="layers.0", head=aux.heads.projector(5), target=aux.frozen(encoder), weight=0.5
    )
    objective = aux.Objective(aux.Term(F.cross_entropy), {"repa": repa}).build(model, X)
    report = objective(model, X, Y)
    head = objective.heads["repa"]
    by_hand = F.cross_entropy(model(X), Y) + 0.5 * F.smooth_l1_loss(head(model.layers[0](X)), encoder(X))
    torch.testing.assert_close(report.total, by_hand)
    report.total.backward()
    assert all(p.grad is None for p in encoder.parameters())
    assert not {id(p) for p in encoder.parameters()} & {id(p) for p in objective.parameters()}
    assert all(torch.equal(p, q) for p, q in zip(encoder.parameters(), before, strict=True))


def test_frozen_network_runs_once_for_terms_that_share_it():
    model, encoder, calls = stack(), nn.Linear(8, 8), []
    encoder.register_forward_hook(lambda *_: calls.append(1))
    terms = {
        tap: aux.Term(aux.losses.cosine, tap=tap, target=aux.frozen(encoder), weight=0.1)
        for tap in ("layers.0", "layers.1")
    }
    aux.Objective(aux.Term(F.cross_entropy), terms)(model, X, Y)
    assert len(calls) == 1


def test_frozen_target_of_a_captured_pass_says_what_it_reads():
    model, encoder = stack(), nn.Linear(4, 8)
    targets = {"main": Y, "image": torch.randn(6, 4)}
    term = aux.Term(aux.losses.cosine, tap="layers.0", target=aux.frozen(encoder, inputs="image"), weight=0.5)
    objective = aux.Objective(aux.Term(F.cross_entropy), {"a": term})
    with objective.capture(model):
        output = model(X)
    report = objective.from_output(output, targets)
    expected = 1 - F.cosine_similarity(model.layers[0](X), encoder(targets["image"]), dim=-1)
    torch.testing.assert_close(report.losses["a"], expected.mean())
    without = aux.Objective(
        aux.Term(F.cross_entropy), {"a": aux.Term(aux.losses.cosine, tap="layers.0", target=aux.frozen(encoder))}
    )
    with without.capture(model):
        output = model(X)
    with pytest.raises(
        aux.AuxiliaryError, match=r"reads the inputs of the model, and the objective did not run the model"
    ):
        without.from_output(output, Y)


def test_a_mask_selects_positions():
    model, mask = stack(), torch.tensor([1, 0, 1, 1, 0, 0]).bool()
    term = aux.Term(aux.losses.cosine, tap="layers.0", target=aux.tapped("layers.2"), mask="mask", weight=0.5)
    objective = aux.Objective(aux.Term(F.cross_entropy), {"a": term})
    report = objective(model, X, {"main": Y, "mask": mask})
    low = model.layers[0](X)
    cosine = 1 - F.cosine_similarity(low, model.layers[2](model.layers[1](low)), dim=-1)
    torch.testing.assert_close(report.losses["a"], cosine[mask].mean())


def test_counts_of_a_target_that_is_not_in_the_data():
    model, target = stack(), aux.tapped("layers.2")
    for count in (None, 6):
        term = aux.Term(aux.losses.cosine, tap="layers.0", target=target, count=count)
        objective = aux.Objective(aux.Term(F.cross_entropy), {"a": term})
        if count is None:
            with pytest.raises(
                aux.AuxiliaryError, match=r"term 'a' has a target that is not in the data, .* Term\(count=...\)"
            ):
                objective.counts([Y])
        else:
            assert objective.counts([Y]) == {"main": 6, "a": 6}
    half = aux.Objective(aux.Term(F.cross_entropy), {"a": aux.Term(aux.losses.cosine, tap="layers.0", target=target)})
    whole = half(model, X, Y).losses["a"]
    parts = [half(model, X[rows], Y[rows], counts={"main": 6, "a": 6}).losses["a"] for rows in (slice(2), slice(2, 6))]
    torch.testing.assert_close(parts[0] + parts[1], whole)


def test_count_of_a_target_that_is_not_in_the_data_is_a_function_of_targets():
    model, loss = stack(), lambda prediction, target: (prediction - target).square().mean()
    term = aux.Term(loss, tap="layers.0", target=aux.tapped("layers.2"), count=lambda targets: len(targets["main"]))
    objective = aux.Objective(aux.Term(F.cross_entropy), {"a": term})
    whole = objective(model, X, {"main": Y}).total
    parts = [(X[rows], {"main": Y[rows]}) for rows in (slice(2), slice(2, 6))]
    counts = objective.counts(targets for _, targets in parts)
    assert counts == {"main": 6, "a": 6}
    reports = [objective(model, x, targets, counts=counts) for x, targets in parts]
    torch.testing.assert_close(reports[0].total + reports[1].total, whole)


def test_a_module_inside_a_frozen_network_is_tapped():
    model, encoder = stack(), nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Tanh(), nn.Linear(8, 8)))
    term = aux.Term(aux.losses.cosine, tap="layers.0", target=aux.frozen(encoder, tap="1.0"))
    losses = aux.Objective(aux.Term(F.cross_entropy), {"a": term})(model, X, Y).losses
    expected = 1 - F.cosine_similarity(model.layers[0](X), encoder[0](X).tanh(), dim=-1)
    torch.testing.assert_close(losses["a"], expected.mean())
    copied = copy.deepcopy(term)
    assert len(encoder[1][0]._forward_hooks) == 1
    del term
    gc.collect()
    assert not encoder[1][0]._forward_hooks
    losses = aux.Objective(aux.Term(F.cross_entropy), {"a": copied})(model, X, Y).losses
    torch.testing.assert_close(losses["a"], expected.mean())


class HoldsTeacher(nn.Module):
    def __init__(self, trained: bool) -> None:
        super().__init__()
        self.teacher = nn.Sequential(nn.Linear(8, 3), nn.Dropout(0.5)).requires_grad_(trained)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(x)


@pytest.mark.parametrize("tap", [None, "out"])
def test_a_model_may_hold_a_frozen_network_whose_parameters_it_does_not_train(tap):
    for trained in (False, True):
        model = HoldsTeacher(trained).train()
        term = aux.Term(aux.losses.kl, tap=tap, select=lambda output: output, target=aux.frozen(model.teacher))
        objective = aux.Objective(aux.Term(F.cross_entropy), {"a": term})
        if trained:
            with pytest.raises(aux.AuxiliaryError, match=r"^term 'a': its frozen network has the parameter teacher.0"):
                objective(model, X, Y)
            assert model.teacher.training
            continue
        report = objective(model, X, Y)
        torch.testing.assert_close(report.losses["a"], aux.losses.kl(model.out(X), model.teacher[0](X)).mean())
        assert model.training and not model.teacher.training


def test_terms_of_a_pattern_may_name_the_target():
    term = aux.Term(F.cross_entropy, tap="layers.[01]", head=nn.Linear(8, 3), target_name="main")
    assert len(aux.Objective(aux.Term(F.cross_entropy), {"a": term})(stack(), X, {"main": Y}).terms) == 3


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (lambda: aux.tapped("layers.*"), r"tapped\('layers.\*'\) is a pattern"),
        (lambda: run(aux.tapped("layers.7")), "layers.7"),
        (lambda: run(aux.frozen(nn.Linear(3, 8))), "term 'a': its frozen network"),
        (lambda: run(aux.frozen(nn.Linear(3, 8), inputs="image")), "term 'a': "),
        (lambda: aux.frozen(F.relu), r"frozen\(\) was given an object of type function; give an nn.Module"),
        (lambda: aux.frozen(stack(), tap="layers.*"), r"frozen\(tap='layers.\*'\) is a pattern"),
        (lambda: aux.frozen(stack(), tap="layer.2"), r"frozen\(\): the model has no module 'layer.2'; the nearest"),
        (lambda: run(aux.frozen(CallsTwice(), tap="layer")), "it calls the module layer 2 times; tap a module that it"),
        (lambda: run(aux.frozen(ReturnsText())), r"which part of it is meant; say so with frozen\(..., select=...\)"),
        (lambda: run(aux.frozen(nn.Linear(8, 1))), r"the shapes \(6, 8\) and \(6, 1\) differ; give both the same"),
    ],
)
def test_mistakes(term, message):
    with pytest.raises(aux.AuxiliaryError, match=message):
        term()


class CallsTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(self.layer(x))


class ReturnsText(nn.Module):
    def forward(self, x):
        return {"name": "no tensor"}


def run(target):
    term = aux.Term(aux.losses.cosine, tap="layers.0", target=target)
    return aux.Objective(aux.Term(F.cross_entropy), {"a": term})(stack(), X, Y)


def test_parts_of_a_frozen_network_in_the_model_are_evaluated():
    """The model sets the mode of a part of its teacher, and not that of the teacher itself."""

    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.out = nn.Linear(4, 8), nn.Linear(8, 3)
            self.part = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 8), nn.Dropout(0.5)).requires_grad_(False)

        def forward(self, x):
            return self.out(self.layer(x))

    model = Student()
    teacher = aux.frozen(nn.Sequential(model.part, nn.Tanh()))
    term = aux.Term(aux.losses.squared_distance, tap="layer", target=teacher)
    objective = aux.Objective(aux.Term(F.cross_entropy), {"hint": term}, model=model)
    x, y = torch.randn(5, 4), torch.zeros(5, dtype=torch.long)
    values = set()
    for _ in range(3):
        model.train()
        values.add(objective(model, x, y).terms["hint"].value)
    assert len(values) == 1 and model.part[0].num_batches_tracked == 0
