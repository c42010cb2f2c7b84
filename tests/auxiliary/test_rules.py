"""Rules, against their formulas."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

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


def test_inactive_term_has_no_penalty():
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


class Shared(nn.Module):
    """Three predictions of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(8, 6)
        self.outputs = nn.ModuleList(nn.Linear(6, 3) for _ in range(3))

    def forward(self, x):
        hidden = self.shared(x).tanh()
        return self.outputs[0](hidden), [output(hidden) for output in self.outputs[1:]]


def gradient_norm(loss, module):
    gradients = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
    return torch.cat([gradient.flatten() for gradient in gradients]).norm()


def gradnorm_by_hand(model, weights, alpha, steps, lr, factor_lr):
    """The algorithm of the paper, written with `weights` of the terms: factors before each step, and the total."""
    factors, initial, history = torch.ones(3), None, []
    for _ in range(steps):
        losses = torch.stack([F.cross_entropy(p, Y) for p in (model(X)[0], *model(X)[1])])
        initial = losses.detach() if initial is None else initial
        total = (factors * torch.tensor(weights) * losses).sum()
        norms = torch.stack([gradient_norm(w * loss, model.shared) for w, loss in zip(weights, losses, strict=True)])
        ratios = losses.detach() / initial
        wanted = (factors * norms).mean() * (ratios / ratios.mean()) ** alpha
        slopes = torch.sign(factors * norms - wanted) * norms
        history.append((factors.clone(), total.item()))
        gradients = torch.autograd.grad(total, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= lr * gradient
            factors = factors - factor_lr * slopes
            factors = factors * 3 / factors.sum()
    return history


def test_gradnorm_matches_its_formula_over_several_steps():
    torch.manual_seed(3)
    weights, alpha, lr, factor_lr = [1.0, 0.5, 2.0], 1.5, 0.1, 0.3
    model = Shared()
    expected = gradnorm_by_hand(copy.deepcopy(model), weights, alpha, 5, lr, factor_lr)
    rule = aux.rules.GradNorm(["main", "a", "b"], model.shared.parameters(), alpha)
    objective = aux.Objective(term(), {"a": term(weight=0.5), "b": term(weight=2.0)}, rule=rule)
    assert len(list(objective.parameters())) == 3  # the factors; the shared layer stays the model's
    optimizer = torch.optim.SGD(
        [{"params": model.parameters(), "lr": lr}, {"params": objective.parameters(), "lr": factor_lr}]
    )
    for factors, total in expected:
        report = objective(model, X, Y)
        assert report.total.item() == pytest.approx(total, rel=1e-5)
        found = [one.weight / weight for one, weight in zip(report.terms.values(), weights, strict=True)]
        assert found == pytest.approx(factors.tolist(), rel=1e-5)
        optimizer.zero_grad()
        report.total.backward()
        optimizer.step()
    assert abs(found[1] - 1) > 0.01


def gradnorm(names=("main", "a", "b"), **more):
    torch.manual_seed(3)
    model = Shared()
    rule = aux.rules.GradNorm(names, model.shared.parameters())
    return model, aux.Objective(term(), {"a": term(**more), "b": term()}, rule=rule)


def test_gradnorm_without_gradients_and_with_a_term_of_weight_0():
    model, objective = gradnorm(weight=aux.schedules.until(0.5))
    with torch.no_grad():
        assert objective(model, X, Y, progress=0.0).terms["a"].weight == 1
    assert objective.rule.initial.isnan().all()
    objective(model, X, Y, progress=0.0).total.backward()
    with torch.no_grad():
        for factor, value in zip(objective.rule.factors, (0.5, 1.0, 1.5), strict=True):
            factor.fill_(value)
    objective.rule.zero_grad()
    report = objective(model, X, Y, progress=0.6)
    report.total.backward()
    assert [one.weight for one in report.terms.values()] == [0.5, 1.5]  # a sum of two, for two active terms
    assert objective.rule.factors[1].grad is None


def test_gradnorm_is_saved_with_the_objective():
    model, objective = gradnorm()
    objective(model, X, Y)
    saved = objective.state_dict()
    _, other = gradnorm()
    other.load_state_dict(saved)
    assert not other.rule.initial.isnan().any()
    assert "shared" not in "".join(saved)


def negative(rule):
    with torch.no_grad():
        rule.factors[1].fill_(-1.0)


@pytest.mark.parametrize(
    ("change", "names", "said"),
    [
        (negative, ("main", "a", "b"), "GradNorm: the factor of 'a' fell to 0; use a lower learning rate"),
        (lambda rule: rule.initial.zero_(), ("main", "a", "b"), "GradNorm divides by the first loss of 'main', which"),
        (lambda rule: None, ("main", "a"), "GradNorm does not know the term 'b'; name all of them"),
        (
            lambda rule: setattr(rule, "_shared", [nn.Parameter(torch.ones(2))]),
            ("main", "a", "b"),
            "GradNorm: no term has a gradient for the shared parameters; give those of the model",
        ),
    ],
)
def test_mistakes_with_gradnorm(change, names, said):
    model, objective = gradnorm(names)
    change(objective.rule)
    with pytest.raises(aux.AuxiliaryError, match=said):
        objective(model, X, Y)
