"""Presets with targets from the network itself or from another one, and of looped networks, against formulas written by
hand: values and gradients of the model and of the heads."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from auxiliary.one_sentence import assert_one_sentence
from auxiliary.test_objective import stack
from charladder import auxiliary as aux


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(5)


def check(report, by_hand, *modules):
    parameters = [p for module in modules for p in module.parameters()]
    torch.testing.assert_close(report.total, by_hand)
    found = torch.autograd.grad(report.total, parameters, allow_unused=True)
    expected = torch.autograd.grad(by_hand, parameters, allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


def tokens_model(width: int = 8) -> nn.Module:
    """(B, T) to (B, T, 10), with the modules embed, mix and out."""
    model = nn.Sequential()
    model.add_module("embed", nn.Embedding(10, width))
    model.add_module("mix", nn.Linear(width, width))
    model.add_module("out", nn.Linear(width, 10))
    return model


def token_loss(logits, tokens):
    return F.cross_entropy(logits.mT, tokens, reduction="none")


def test_repa_is_the_cosine_to_the_encoder_until_it_ends():
    encoder, calls = nn.Linear(4, 6), []
    encoder.register_forward_hook(lambda *_: calls.append(1))
    clean, noisy = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
    align = aux.presets.repa("1", aux.frozen(encoder, inputs="clean"), aux.heads.projector(6, hidden=16), end=0.1)
    objective = aux.Objective(aux.Term(F.mse_loss, target="clean"), {"repa": align}).build(model, noisy)
    projector = objective.heads["repa"]
    assert [layer.out_features for layer in projector if isinstance(layer, nn.Linear)] == [16, 16, 6]

    def by_hand(weight):
        aligned = F.normalize(projector(model[1](model[0](noisy))), dim=-1)
        features = F.normalize(encoder(clean), dim=-1).detach()
        return F.mse_loss(model(noisy), clean) + weight * (1 - (aligned * features).sum(-1)).mean()

    for progress, weight in ((0.0, 0.5), (0.099, 0.5)):
        check(objective(model, noisy, {"clean": clean}, progress=progress), by_hand(weight), model, projector)
    calls.clear()
    ended = objective(model, noisy, {"clean": clean}, progress=0.1)
    assert torch.equal(ended.total, F.mse_loss(model(noisy), clean))
    assert not calls


def test_feature_hint_is_half_the_squared_distance_of_feature_maps():
    images, labels = torch.randn(3, 2, 4, 4), torch.tensor([0, 1, 1])
    student = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Flatten(), nn.Linear(48, 2))
    teacher = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.Flatten())
    regressor = nn.Conv2d(3, 5, 1)
    hint = aux.presets.feature_hint("0", aux.frozen(teacher, tap="1"), regressor, weight=0.1)
    report = aux.Objective(aux.Term(F.cross_entropy), {"hint": hint})(student, images, labels)
    features = teacher.eval()[1](teacher[0](images)).detach()
    distance = (regressor(student[0](images)) - features).square().sum((1, 2, 3)) / 2
    check(report, F.cross_entropy(student(images), labels) + 0.1 * distance.mean(), student, regressor)


class Exit(nn.Module):
    """Features and logits."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.classifier = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, hidden):
        features = self.features(hidden).relu()
        return features, self.classifier(features)


def test_self_distillation_has_three_losses_for_each_exit():
    model, x, y = stack(), torch.randn(6, 8), torch.tensor([0, 1, 2, -100, 1, 2])
    exits, calls = {"layers.0": Exit(), "layers.1": Exit()}, []
    exits["layers.0"].register_forward_hook(lambda *_: calls.append(1))
    terms = aux.presets.self_distillation(exits, features=aux.tapped("layers.2"), alpha=0.4, hint=0.02)
    report = aux.Objective(aux.Term(F.cross_entropy), terms)(model, x, {"main": y})
    assert len(calls) == 1

    hidden = [model.layers[0](x)]
    hidden += [model.layers[1](hidden[0])]
    deepest = model.layers[2](hidden[1])
    by_hand = F.cross_entropy(model.out(deepest), y)
    p = (model.out(deepest).detach() / 3).softmax(-1)
    for state, head in zip(hidden, exits.values(), strict=True):
        features, logits = head(state)
        kl = (p * (p.log() - (logits / 3).log_softmax(-1))).sum(-1).mean()
        distance = (features - deepest.detach()).square().sum(-1).mean()
        by_hand = by_hand + 0.6 * F.cross_entropy(logits, y) + 0.4 * kl + 0.02 * distance
    check(report, by_hand, model, *exits.values())


def test_self_distillation_of_a_language_model():
    """Exits that return logits alone; labels of each position; a teacher that is a module."""
    model, tokens = tokens_model(), torch.randint(10, (2, 5))
    terms = aux.presets.self_distillation({"embed": nn.Linear(8, 10)}, teacher=aux.tapped("out"), end=0.5)
    objective = aux.Objective(aux.Term(token_loss), terms)
    head = terms["embed.labels"].head
    report = objective(model, tokens, tokens, progress=0.4)
    early = head(model.embed(tokens))
    p = (model(tokens).detach() / 3).softmax(-1)
    kl = (p * (p.log() - (early / 3).log_softmax(-1))).sum(-1).mean()
    by_hand = token_loss(model(tokens), tokens).mean() + 0.7 * token_loss(early, tokens).mean() + 0.3 * kl
    check(report, by_hand, model, head)
    assert list(objective(model, tokens, tokens, progress=0.5).terms) == ["main"]


def test_latent_prediction_of_masked_positions_with_an_ema_target():
    model, predictor = tokens_model(), nn.Linear(8, 8)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    tokens, masked = torch.randint(1, 10, (2, 6)), torch.tensor([[0, 1, 0, 1, 1, 0], [1, 0, 0, 0, 0, 1]]).bool()
    inputs, targets = tokens.masked_fill(masked, 0), {"main": tokens, "whole": tokens, "masked": masked}
    target = aux.frozen(ema, inputs="whole", tap="mix")
    latent = aux.presets.latent_prediction("mix", target, predictor, mask="masked", weight=0.5)
    objective = aux.Objective(aux.Term(token_loss), {"latent": latent})
    optimizer = torch.optim.SGD([*model.parameters(), *objective.parameters()], lr=0.1)
    averaged = [p.clone() for p in model.parameters()]
    for _ in range(3):
        features = F.layer_norm(ema.module.mix(ema.module.embed(tokens)), (8,)).detach()
        predicted = predictor(model.mix(model.embed(inputs)))
        distance = F.smooth_l1_loss(predicted[masked], features[masked])
        by_hand = token_loss(model(inputs), tokens).mean() + 0.5 * distance
        check(objective(model, inputs, targets), by_hand, model, predictor)
        optimizer.zero_grad()
        objective(model, inputs, targets).total.backward()
        optimizer.step()
        ema.update_parameters(model)
        first = ema.n_averaged == 1  # AveragedModel copies the first time
        for at, now in enumerate(model.parameters()):
            averaged[at] = now.detach().clone() if first else 0.9 * averaged[at] + 0.1 * now.detach()
    for one, other in zip(ema.module.parameters(), averaged, strict=True):
        torch.testing.assert_close(one, other)
    assert not {id(p) for p in ema.parameters()} & {id(p) for p in objective.parameters()}
    assert all(p.grad is None for p in ema.parameters())


def test_latent_prediction_of_future_positions():
    model, predictor, tokens = tokens_model(), nn.Linear(8, 8), torch.randint(10, (2, 6))
    real = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]).bool()
    latent = aux.presets.latent_prediction(
        "mix", aux.tapped("mix"), predictor, ahead=2, loss=aux.losses.cosine, normalize=False,
        mask=lambda targets: targets["real"][:, 2:],
    )  # fmt: skip
    objective = aux.Objective(aux.Term(token_loss), {"latent": latent})
    hidden = model.mix(model.embed(tokens))
    distance = 1 - F.cosine_similarity(predictor(hidden[:, :-2]), hidden[:, 2:].detach(), dim=-1)
    by_hand = token_loss(model(tokens), tokens).mean() + distance[real[:, 2:]].mean()
    check(objective(model, tokens, {"main": tokens, "real": real}), by_hand, model, predictor)


class Loop(nn.Module):
    """A recursive network: some refinements of a state without gradients, one with, an answer; three outer steps.

    outside: forward makes one outer step of a given state, and returns the answer and the next state.
    """

    STEPS = 3

    def __init__(self, outside: bool) -> None:
        super().__init__()
        self.refine, self.answer, self.outside = nn.Linear(12, 4), nn.Linear(4, 3), outside

    def outer_step(self, x, state):
        with torch.no_grad():
            for _ in range(2):
                state = self.refine(torch.cat([x, state], 1)).tanh()
        state = self.refine(torch.cat([x, state], 1)).tanh()
        return self.answer(state), state.detach()

    def forward(self, x, state=None):
        if self.outside:
            return self.outer_step(x, state)
        state = torch.zeros(len(x), 4)
        for _ in range(self.STEPS):
            answer, state = self.outer_step(x, state)
        return answer

    def loss_by_hand(self, x, y):
        state, total = torch.zeros(len(x), 4), torch.zeros(())
        for _ in range(self.STEPS):
            answer, state = self.outer_step(x, state)
            total = total + F.cross_entropy(answer, y) / self.STEPS
        return total


def test_looped_network_with_all_steps_in_one_pass():
    model, x, y = Loop(outside=False), torch.randn(6, 8), torch.randint(3, (6,))
    terms = aux.presets.looped(F.cross_entropy, "answer", steps=Loop.STEPS)
    report = aux.Objective(aux.Term(F.cross_entropy, weight=1 / Loop.STEPS), terms)(model, x, {"main": y})
    assert list(report.terms) == ["main", "step1", "step2"]
    check(report, model.loss_by_hand(x, y), model)


def test_looped_network_with_a_loop_outside():
    """The gradient of an outer step with weight 1 / steps, added up; as in docs/representation-losses.md."""
    model, x, y = Loop(outside=True), torch.randn(6, 8), torch.randint(3, (6,))
    objective = aux.Objective(aux.Term(F.cross_entropy, select=0))
    state = torch.zeros(len(x), 4)
    for _ in range(Loop.STEPS):
        with objective.capture(model):
            output = model(x, state)
        (objective.from_output(output, y).total / Loop.STEPS).backward()
        state = output[1]
    expected = torch.autograd.grad(model.loss_by_hand(x, y), list(model.parameters()))
    for parameter, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted)


def test_presets_can_be_pickled():
    terms = [
        aux.presets.repa("1", aux.tapped("2"), aux.heads.projector(6), end=0.1),
        aux.presets.feature_hint("1", aux.tapped("2"), aux.heads.linear(6)),
        *aux.presets.self_distillation({"1": Exit()}, features=aux.tapped("2")).values(),
        aux.presets.latent_prediction("1", aux.tapped("2"), aux.heads.linear(6), ahead=1),
        *aux.presets.looped(F.cross_entropy, "1", 2).values(),
    ]
    assert len(pickle.loads(pickle.dumps(terms))) == 7


FROZEN = aux.frozen(nn.Linear(8, 5))
MISTAKES = {
    "exit that is a function": (
        lambda: aux.presets.self_distillation({"layers.0": aux.heads.linear(3)}),
        "self_distillation: exits is a dict of str: partial; it must be a mapping from strings to modules",
    ),
    "alpha above 1": (lambda: aux.presets.self_distillation({}, alpha=1.5), "has alpha 1.5; it must lie in [0, 1]"),
    "hint of an exit without features": (
        lambda: run(aux.presets.self_distillation({"layers.0": nn.Linear(8, 3)}, features=aux.tapped("layers.2"))),
        "term 'layers.0.hint': its loss cannot compare",
    ),
    "features of another shape": (
        lambda: run({"a": aux.presets.repa("layers.0", FROZEN, nn.Linear(8, 6))}),
        "of shape (6, 6) with a target of shape (6, 5): the shapes (6, 6) and (6, 5) differ; give both the same shape",
    ),
    "end of a weight function": (
        lambda: aux.presets.repa("layers.0", FROZEN, nn.Linear(8, 5), weight=lambda t: 1 - t, end=0.5),
        "a weight that ends at 0.5 must be a number, and this one is of type function; leave the end out",
    ),
    "end after training": (
        lambda: aux.presets.feature_hint("layers.0", FROZEN, nn.Linear(8, 5), end=1.5),
        "end is 1.5; it must be a progress above 0",
    ),
    "future that is past": (
        lambda: aux.presets.latent_prediction("layers.0", FROZEN, nn.Linear(8, 5), ahead=-1),
        "latent_prediction has ahead=-1; it must be at least 0",
    ),
    "one outer step": (
        lambda: aux.presets.looped(F.cross_entropy, "out", steps=1),
        "looped has steps=1; a looped network has at least 2",
    ),
    "fewer outer steps than terms": (
        lambda: run(aux.presets.looped(F.cross_entropy, "out", steps=3)),
        "term 'step2': its call is 1, and the model calls its tap out 1 times",
    ),
}  # fmt: skip


def run(terms):
    return aux.Objective(aux.Term(F.cross_entropy), terms)(stack(), torch.ones(6, 8), torch.zeros(6, dtype=torch.long))


@pytest.mark.parametrize("name", MISTAKES)
def test_message_is_one_sentence(name):
    assert_one_sentence(*MISTAKES[name])


def test_self_distillation_leaves_out_masked_positions():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 8), nn.Tanh(), nn.Linear(8, 6))
    terms = aux.presets.self_distillation({"1": nn.Linear(8, 6)}, mask=lambda labels: labels != -100)
    main = aux.Term(lambda logits, labels: F.cross_entropy(logits.mT, labels, reduction="none"))
    ids, labels = torch.tensor([[1, 2, 3, 0]]), torch.tensor([[2, 3, 4, -100]])
    report = aux.Objective(main, terms)(model, ids, labels)
    assert {name: int(term.count) for name, term in report.terms.items()} == {"main": 3, "1.labels": 3, "1.teacher": 3}
    report.total.backward()
    assert model[0].weight.grad[0].abs().sum() == 0  # of the padding
