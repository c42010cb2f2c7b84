"""Every example runs, and does what it says it does: the sums, the gradients and what each term reads, by hand."""

import logging
import math
import socket

import pytest
import torch
import torch.nn.functional as F

from charladder import auxiliary as aux


def norm(module: torch.nn.Module) -> float:
    """Of the gradient of a module."""
    return float(torch.cat([p.grad.flatten() for p in module.parameters()]).norm())


@pytest.fixture
def no_network(monkeypatch):
    def connect(*_):
        raise AssertionError("an example went to the network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)


# Two predictions.


def test_two_predictions_runs(no_network, capsys):
    from examples import two_predictions

    found = two_predictions.main()
    assert found["same_by_hand"] == 1
    assert found["digit_accuracy"] > 0.8 and found["odd_accuracy"] > 0.8 and found["below_five_accuracy"] > 0.8
    printed = capsys.readouterr().out
    assert "1 * " in printed and "0.4 * " in printed and "0.8 * " in printed


def test_two_predictions_is_the_sum_by_hand_to_the_last_bit():
    from examples import two_predictions

    torch.manual_seed(1)
    x, targets = two_predictions.load()
    x, targets = x[:50], {name: target[:50] for name, target in targets.items()}
    model, objective = two_predictions.Reader(), two_predictions.make_objective()
    report = objective(model, x, targets)
    final, (odd, below_five) = model(x)
    main = F.cross_entropy(final, targets["main"])
    first = F.binary_cross_entropy_with_logits(odd, (targets["main"] % 2).float())
    second = F.binary_cross_entropy_with_logits(below_five, (targets["main"] < 5).float())
    by_hand = main + 0.4 * first + 0.8 * second
    assert torch.equal(report.total, by_hand)
    assert {name: term.weight for name, term in report.terms.items()} == {"main": 1, "odd": 0.4, "below_five": 0.8}
    assert [term.value for term in report.terms.values()] == [main.item(), first.item(), second.item()]
    for part in report.parts.values():  # all three reach the lowest layer
        assert torch.autograd.grad(part, model.layer1.weight, retain_graph=True)[0].any()

    report.total.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    by_hand.backward()
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)
    assert not list(objective.parameters())


# Inception.


def test_inception_runs(no_network, capsys):
    from examples import inception

    found = inception.main(steps=30)
    assert 0 <= found["accuracy"] <= 1
    assert found["weights"] == set(inception.SmallGoogLeNet().state_dict())  # no trace of the classifiers
    assert list(found["whole"]) == ["stem", *(f"trunk.{name}" for name in ("3a", "3b", "4a", "4b", "5a", "5b"))]
    printed = capsys.readouterr().out
    assert "8x8 enlarged to 32x32" in printed and "trunk.4a" in printed


def test_inception_gradient_norms_are_those_of_the_two_losses():
    from examples import inception

    torch.manual_seed(0)
    x, y = inception.load()
    x, y = x[:16], y[:16]
    assert x.shape == (16, 1, 32, 32)
    model, objective = inception.SmallGoogLeNet(), inception.make_objective()
    untouched = model(x)
    report = objective(model, x, y)
    values = {name: term.value for name, term in report.terms.items()}
    assert report.total.item() == pytest.approx(values["main"] + 0.3 * values["lower"] + 0.3 * values["upper"])
    depths = aux.by_depth(model, "stem") | aux.by_depth(model, "trunk.*")
    norms = aux.diagnose(report, depths)

    report.total.backward()
    modules = {name: model.get_submodule(name) for name in norms.total_norms}
    assert {name: norm(module) for name, module in modules.items()} == pytest.approx(norms.total_norms, rel=1e-4)
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    assert {name: norm(module) for name, module in modules.items()} == pytest.approx(norms.main_norms, rel=1e-4)
    # Above the higher classifier there is the main loss alone; below, each classifier has a short way down.
    for name in norms.total_norms:
        above = name in ("trunk.4b", "trunk.5a", "trunk.5b")
        total, main = norms.total_norms[name], norms.main_norms[name]
        assert total == main if above else total > main

    assert all(p.grad is not None for p in objective.parameters()) and len(list(objective.parameters())) == 8
    assert not set(map(id, objective.parameters())) & set(map(id, model.parameters()))
    objective.remove()
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model(x), untouched)


# Hugging Face.


@pytest.mark.slow
def test_hugging_face_runs_without_network_or_warnings(no_network, capsys, caplog):
    from examples import hugging_face

    logger = logging.getLogger("transformers")  # has handlers of its own, and hands nothing on
    logger.addHandler(caplog.handler)
    try:
        found = hugging_face.main(steps=40)
    finally:
        logger.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert found["encoder"]["last_bits"] < found["encoder"]["first_bits"]
    assert found["decoder"]["last_bits"] < found["decoder"]["first_bits"] - 1
    assert 0 <= found["encoder"]["accuracy"] <= 1
    printed = capsys.readouterr()
    assert "layer.2" in printed.out and "layer3" in printed.out
    assert printed.err == ""


def test_the_encoder_reads_every_layer_as_hugging_face_gives_it():
    from examples import hugging_face

    torch.manual_seed(0)
    model, objective = hugging_face.make_encoder()
    model.eval()  # no dropout
    x, y = torch.randint(1, 257, (4, 9)), torch.tensor([3, 1, 4, 1])
    report = objective(model, {"input_ids": x}, y)
    assert list(report.terms) == ["main", "layer.0", "layer.1", "layer.2"]
    output = model(input_ids=x, labels=y, output_hidden_states=True)
    assert report.terms["main"].value == output.loss.item()
    for layer in range(3):
        head = objective.terms[f"layer.{layer}"].head
        by_hand = F.cross_entropy(head(output.hidden_states[layer + 1][:, 0]), y)
        assert report.terms[f"layer.{layer}"].value == by_hand.item()
        assert report.terms[f"layer.{layer}"].weight == 0.3
    assert sum(p.numel() for p in objective.parameters()) == 3 * (48 * 10 + 10)
    assert set(model.state_dict()) == set(type(model)(model.config).state_dict())


def test_the_decoder_reads_every_layer_through_the_models_own_head():
    from examples import hugging_face

    torch.manual_seed(0)
    model, objective = hugging_face.make_decoder()
    text = torch.randint(256, (2, 16))
    report = objective(model, {"input_ids": text}, text, progress=0.0)
    assert list(report.terms) == ["main", "layer1", "layer2", "layer3"]
    output = model(input_ids=text, labels=text, output_hidden_states=True)  # its own loss of the next byte
    assert report.terms["main"].value == pytest.approx(output.loss.item(), rel=1e-6)
    for layer in (1, 2, 3):
        logits = model.lm_head(model.model.norm(output.hidden_states[layer]))
        by_hand = F.cross_entropy(logits[:, :-1].reshape(-1, 256), text[:, 1:].reshape(-1))
        assert report.terms[f"layer{layer}"].value == pytest.approx(by_hand.item(), rel=1e-6)
    assert not list(objective.parameters())
    assert list(objective(model, {"input_ids": text}, text, progress=0.3).terms) == ["main", "layer3"]


# The three losses.


def test_three_losses_runs(no_network, capsys):
    from examples import three_losses

    steps = 60
    found = three_losses.main(steps)
    layers = {f"layer{layer}.target{target}": layer for layer in (1, 2, 3) for target in (1, 2)}
    assert set(found["first"]) == {"main", "layer4.target2"} | set(layers)
    assert set(found["last"]) == {"main", "layer4.target2"}
    assert found["inactive"] == {name: math.ceil(steps * layer / (2 * 4)) for name, layer in layers.items()}
    assert all(found["last"][name] < found["first"][name] - 1 for name in found["last"])  # bits
    assert "inactive since step" in capsys.readouterr().out


def test_three_losses_has_every_prediction_that_the_paper_asks_for():
    from examples import three_losses

    torch.manual_seed(0)
    symbols, batch = 30, 3
    model = three_losses.Transformer(symbols)
    text = torch.randint(symbols, (500,))
    inputs, targets = three_losses.windows(text, batch)
    assert torch.equal(targets[1][:, :-1], inputs[:, 1:]) and torch.equal(targets[2][:, :-2], inputs[:, 2:])
    objective = three_losses.make_objective(model, symbols).build(model, inputs)

    start = objective(model, inputs, targets, progress=0.0)
    assert {name: term.weight for name, term in start.terms.items()} == {"main": 1.0} | {
        f"layer{layer}.target{target}": 1.0 if target == 1 else 0.5
        for layer in (1, 2, 3, 4)
        for target in (1, 2)
        if (layer, target) != (4, 1)
    }
    assert {int(term.count) for term in start.terms.values()} == {batch * three_losses.LENGTH}
    assert start.total.item() == pytest.approx(sum(term.weight * term.value for term in start.terms.values()))
    main = F.cross_entropy(model(inputs).flatten(0, 1), targets[1].flatten())
    assert start.terms["main"].value == pytest.approx(main.item(), rel=1e-6)

    for progress, layers in ((0.1249, {1, 2, 3}), (0.125, {2, 3}), (0.25, {3}), (0.375, set()), (1.0, set())):
        terms = objective(model, inputs, targets, progress=progress).terms
        wanted = {f"layer{layer}.target{target}" for layer in layers for target in (1, 2)}
        assert set(terms) == {"main", "layer4.target2"} | wanted


def test_the_transformer_of_three_losses_does_not_see_what_it_predicts():
    from examples import three_losses

    torch.manual_seed(0)
    model = three_losses.Transformer(30)
    x = torch.randint(30, (2, 20))
    changed = x.clone()
    changed[:, 12] = (x[:, 12] + 1) % 30
    torch.testing.assert_close(model(x)[:, :12], model(changed)[:, :12])
    assert not torch.allclose(model(x)[:, 12:], model(changed)[:, 12:])


# Does it help.


@pytest.mark.parametrize("name", ["train_cnn", "train_encoder"])
def test_arms_of_a_seed_begin_alike(no_network, name):
    from examples import does_it_help

    train = getattr(does_it_help, name)
    frozen = {"rate": 0.0, "steps": 1}
    (none,), (aux_arm,), (other_seed,) = (
        list(train(does_it_help.ARMS[arm] | frozen, seed)) for arm, seed in (("none", 0), ("aux", 0), ("none", 1))
    )
    assert none == aux_arm != other_seed
    (trained,) = list(train(does_it_help.ARMS["aux"] | {"rate": 1e-2, "steps": 1}, 0))
    assert trained[1].keys() == {"valid_loss", "test_loss"} and trained != aux_arm


@pytest.mark.slow
def test_does_it_help_runs(no_network, capsys, tmp_path, monkeypatch):
    from examples import does_it_help

    monkeypatch.setattr(does_it_help, "SEEDS", (0, 1))
    found = does_it_help.main(steps=2, folder=tmp_path, rates=(1e-3, 1e-2))
    assert list(found) == ["train_cnn", "train_encoder"]
    assert all(result.differences["aux"].seeds == (0, 1) for result in found.values())
    assert all((tmp_path / f"{name}.html").read_text().count("<svg") == 2 for name in found)
    printed = capsys.readouterr().out
    assert printed.count("learning rates: none 0.0") == 2 and printed.count("aux: not enough seeds for a claim") == 2
