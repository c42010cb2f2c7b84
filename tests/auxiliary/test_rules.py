"""Rules, against their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from auxiliary.test_objective import Predicts, term
from charladder import auxiliary as aux

X, Y = torch.randn(6, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1, 2])


def two_terms(rule=None, **more):
    torch.manual_seed(3)
    model = Predicts("flat")
    return model, aux.Objective(term(), {"a": term(weight=0.5), "b": term(weight=2.0)}, rule=rule, **more)


def losses(model):
    return [F.cross_entropy(prediction, Y) for prediction in model(X)]


def test_uncertainty_matches_its_formula():
    model, objective = two_terms(aux.rules.Uncertainty(["main", "a", "b"]))
    with torch.no_grad():
        for s, value in zip(objective.rule.log_variance, (0.1, -0.3, 0.7), strict=True):
            s.fill_(value)
    parameters = [*model.parameters(), *objective.parameters()]
    assert len(list(objective.parameters())) == 3
    report = objective(model, X, Y)
    s = [torch.tensor(value, requires_grad=True) for value in (0.1, -0.3, 0.7)]
    main, a, b = losses(model)
    by_hand = torch.exp(-s[0]) * main + torch.exp(-s[1]) * 0.5 * a + torch.exp(-s[2]) * 2 * b + sum(s) / 2
    torch.testing.assert_close(report.total, by_hand)
    expected = torch.autograd.grad(by_hand, [*model.parameters(), *s])
    for mine, theirs in zip(torch.autograd.grad(report.total, parameters), expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert report.terms["a"].weight == pytest.approx(0.5 * math.exp(0.3))


def test_uncertainty_ignores_unnamed_main_and_refuses_unnamed_terms():
    model, objective = two_terms(aux.rules.Uncertainty(["a", "b"]))
    assert objective(model, X, Y).terms["main"].weight == 1
    model, objective = two_terms(aux.rules.Uncertainty(["a"]))
    with pytest.raises(aux.AuxiliaryError, match="Uncertainty does not know the term 'b'"):
        objective(model, X, Y)


def test_silent_term_has_no_penalty():
    rule = aux.rules.Uncertainty(["main", "a"])
    objective = aux.Objective(term(), {"a": term(select=0, weight=aux.schedules.until(0.5))}, rule=rule)
    objective(Predicts("flat"), X, Y, progress=0.6).total.backward()
    assert rule.log_variance[0].grad is not None and rule.log_variance[1].grad is None


def test_adaloss_scales_every_term_to_the_main_loss():
    model, objective = two_terms(aux.rules.AdaLoss(["a", "b"], decay=0.5))
    main, a, b = (float(one.detach()) for one in losses(model))
    report = objective(model, X, Y)
    assert report.terms["a"].weight == pytest.approx(0.5 * main / a)
    assert report.terms["b"].weight == pytest.approx(2 * main / b)
    with torch.no_grad():
        for parameter in model.c.parameters():
            parameter.mul_(3)
    before = b
    b = float(losses(model)[2].detach())
    assert objective(model, X, Y).terms["b"].weight == pytest.approx(2 * main / (0.5 * before + 0.5 * b))
    again = aux.rules.AdaLoss(["a", "b"], decay=0.5)
    again.load_state_dict(objective.rule.state_dict())
    assert torch.equal(again.averages, objective.rule.averages)
    with torch.no_grad():  # validation does not change the averages
        objective(model, -X, Y)
    assert torch.equal(again.averages, objective.rule.averages)


def test_hinge_drops_auxiliary_terms_below_threshold():
    model, objective = two_terms(aux.rules.hinge(100.0))
    report = objective(model, X, Y)
    assert [t.weight for t in report.terms.values()] == [1, 0, 0]
    torch.testing.assert_close(report.total, losses(model)[0])
    model, objective = two_terms(aux.rules.hinge(0.0))
    assert [t.weight for t in objective(model, X, Y).terms.values()] == [1, 0.5, 2]


def test_function_as_rule():
    model, objective = two_terms(lambda values: {"a": 10.0 * (values["a"] > values["main"])})
    main, a, _ = losses(model)
    assert objective(model, X, Y).terms["a"].weight == (5.0 if bool(a > main) else 0.0)
