"""The trainer: learning, skipped steps, optimizers, schedules, clipping, diagnosis, cut windows."""

import math

import numpy as np
import pytest
import torch

from charladder.errors import UserError
from charladder.evaluation import evaluate
from charladder.model import Transformer
from charladder.objective import LanguageModelObjective, ObjectiveConfig
from charladder.recipe import load_recipe_fields, resolve
from charladder.text import Windows
from charladder.training import Trainer, TrainingConfig, TrainingDiverged
from charladder.training.devices import choose_device, choose_precision
from charladder.training.optimizers import make_optimizers, named_parameters
from charladder.training.schedule import RunCounters, compute_progress, learning_rate_factor, step_share
from helpers import make_trainer, predictor, small


@pytest.mark.slow
def test_a_network_overfits_a_thousand_characters(prose):
    rng = np.random.default_rng(0)
    text = bytes(rng.choice(list(b"abcdefghijklmnopqrstuvwxyz "), 1000).tolist())
    trainer = make_trainer(text, small(width=64, feed_forward=128, context=32), batch=16, steps=500, learning_rate=0.02)
    while trainer.progress < 1:
        trainer.step()
    score = evaluate(predictor(trainer.network.eval()), np.frombuffer(text, np.uint8), (0, 1000), 32, 16, 256)
    assert score.bits_per_character < 0.05


@pytest.mark.parametrize("block", ["modern", "paper"])
def test_an_untrained_network_of_bytes_scores_eight_bits(prose, block):
    trainer = make_trainer(prose, small(block=block, width=64, layers=6))
    ids = np.frombuffer(prose, np.uint8)
    score = evaluate(predictor(trainer.network.eval()), ids, (0, len(ids)), 16, 8, 256)
    assert score.bits_per_character == pytest.approx(8.0, abs=0.1)


@pytest.mark.slow
def test_uniform_letters_are_never_scored_below_their_entropy():
    """A leak of the target into the context would give a score below log2(8) bits."""
    letters = np.frombuffer(b"abcdefgh", np.uint8)
    text = np.random.default_rng(1).choice(letters, 60_000)
    trainer = make_trainer(text[:40_000].tobytes(), batch=16, steps=300)
    while trainer.progress < 1:
        trainer.step()
    model, losses = trainer.network.eval(), []
    for begin in range(40_000, 59_000, 500):
        losses.append(evaluate(predictor(model), text, (begin, begin + 500), 16, 8, 256).bits_per_character)
    mean, error = np.mean(losses), np.std(losses, ddof=1) / math.sqrt(len(losses))
    assert mean > 3 - 4 * error
    assert mean < 3.2  # the network has learned the alphabet


def test_a_loss_that_is_not_finite_names_step_and_term_and_changes_nothing(prose):
    trainer = make_trainer(prose, skips=0)
    trainer.step()
    with torch.no_grad():
        trainer.objective.heads["layer2_target1"].weight[0, 0] = float("nan")
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    with pytest.raises(TrainingDiverged, match=r"step 2: .* layer2\.target1$"):
        trainer.step()
    assert trainer.counters.step == 1
    assert all(torch.equal(value, before[name]) for name, value in trainer.network.state_dict().items())


def test_muon_updates_only_matrices_of_layers_and_query_key_and_value_separately(prose):
    trainer = make_trainer(prose, small(block="paper"))
    muon, adam = trainer.optimizers
    names = {id(p): name for name, p in named_parameters(trainer.network, trainer.objective.heads)}
    muon_names = sorted(names[id(p)] for p in muon.param_groups[0]["params"])
    assert [n for n in muon_names if n.startswith("network.blocks.0")] == [
        f"network.blocks.0.{part}.weight"
        for part in ("attention.key", "attention.output", "attention.query", "attention.value")
    ] + [f"network.blocks.0.feed_forward.{part}.weight" for part in ("down", "up")]
    adam_names = {names[id(p)] for p in adam.param_groups[0]["params"]}
    assert {"network.embedding.weight", "network.output.weight", "network.tables.0"} <= adam_names
    assert any(name.startswith("heads.") for name in adam_names)
    assert len(muon_names) + len(adam_names) == len(names)


def test_weights_and_optimizer_state_are_float32_under_bfloat16(prose):
    trainer = make_trainer(prose, precision="bfloat16")
    report = trainer.step().report
    assert math.isfinite(float(report.total))
    tensors = [*trainer.checkpoint().network.values(), *trainer.checkpoint().optimizer.values()]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def test_a_network_can_be_trained_after_an_evaluation(prose):
    trainer = make_trainer(prose)
    evaluate(predictor(trainer.network), np.frombuffer(prose, np.uint8), (0, 100), 16, 8, 256)
    assert trainer.step().progress == 0


@pytest.mark.slow
def test_t64_takes_a_step():
    """All 64 layers, both targets, dropout; one window of 512 characters, which is fast enough for a test."""
    recipe = resolve({**load_recipe_fields("t64"), "training.batch": 1, "training.micro_batch": 1})
    text = np.random.default_rng(0).integers(0, 256, 2000).astype(np.uint8)
    network = Transformer(recipe.model, 256)
    windows = Windows(text, (0, 2000), recipe.model.context, recipe.objective.targets, 0)
    trainer = Trainer(network, LanguageModelObjective(recipe.objective, recipe.model, 256), windows, recipe.training)
    before = network.blocks[0].attention.query.weight.detach().clone()
    report = trainer.step().report
    assert len(report.terms) == 128
    assert report.terms["main"].bits == pytest.approx(8, abs=0.2)
    assert not torch.equal(network.blocks[0].attention.query.weight, before)


def test_progress_for_each_kind_of_budget():
    by_steps = TrainingConfig(batch=1, learning_rate=1.0, steps=100)
    assert compute_progress(by_steps, RunCounters(step=25)) == 0.25
    by_characters = TrainingConfig(batch=1, learning_rate=1.0, characters=1000)
    assert compute_progress(by_characters, RunCounters(characters=5000)) == 1
    assert compute_progress(TrainingConfig(batch=1, learning_rate=1.0, minutes=2), RunCounters(seconds=30)) == 0.25


@pytest.mark.parametrize(
    ("decay", "warmup", "at", "factor"),
    [
        ("fixed", 0.0, 0.0, 1), ("fixed", 0.0, 0.5, 1), ("fixed", 0.0, 1.0, 1), ("fixed", 0.5, 0.2, 0.42),
        ("linear", 0.1, 0.0, 0.1), ("linear", 0.1, 0.05, 0.6 * 0.95), ("linear", 0.1, 0.09, 0.91),
        ("linear", 0.1, 0.5, 0.5), ("linear", 0.1, 1.0, 0),
        ("cosine", 0.0, 0.5, 0.5), ("cosine", 0.5, 0.0, 0.02),
        ("cosine", 0.5, 0.24, 0.25 * (1 + math.cos(0.24 * math.pi))),
        ("cosine", 0.5, 0.49, 0.5 * (1 + math.cos(0.49 * math.pi))), ("cosine", 0.5, 0.75, 0.5 - math.sqrt(0.125)),
        ("cosine", 0.5, 1.0, 0),
    ],
)  # fmt: skip
def test_learning_rate_factor(decay, warmup, at, factor):
    settings = TrainingConfig(batch=1, learning_rate=1.0, steps=100, decay=decay, warmup=warmup)
    assert learning_rate_factor(settings, at, 0.01) == pytest.approx(factor, abs=1e-12)


def test_step_share_for_each_kind_of_budget():
    counters = RunCounters(step=4, characters=100, seconds=6.0)
    assert step_share(TrainingConfig(batch=1, learning_rate=1.0, steps=100), counters, 30, 9.0) == 0.01
    assert step_share(TrainingConfig(batch=1, learning_rate=1.0, characters=600), counters, 30, 9.0) == 0.05
    by_minutes = TrainingConfig(batch=1, learning_rate=1.0, minutes=0.5)
    assert step_share(by_minutes, counters, 30, 9.0) == 0.05
    assert step_share(by_minutes, RunCounters(), 30, 9.0) == 0.3


@pytest.mark.parametrize("budget", [{"steps": 40}, {"characters": 40 * 64}, {"minutes": 10.0}])
@pytest.mark.parametrize("optimizer", ["muon", "adamw", "momentum"])
def test_the_first_step_of_the_warm_up_changes_the_weights(prose, budget, optimizer):
    trainer = make_trainer(prose, optimizer=optimizer, warmup=0.1, **({"steps": 0} | budget))
    before = trainer.network.blocks[0].attention.output.weight.detach().clone()
    rate = trainer.step().learning_rate
    assert not torch.equal(trainer.network.blocks[0].attention.output.weight, before)
    assert 0 < rate < 0.01 and (rate == pytest.approx(0.01 / 4) or "minutes" in budget)


def test_a_step_uses_the_learning_rate_that_it_reports(prose):
    """SGD without momentum or clipping changes weights by the rate times the gradient; here with warm-up and decay."""
    trainer = make_trainer(
        prose, optimizer="momentum", momentum=0.0, clip=0.0, learning_rate=0.5, steps=8, warmup=0.5, decay="cosine"
    )
    weight = trainer.network.output.weight
    for step in range(8):
        before = weight.detach().clone()
        rate = trainer.step().learning_rate
        expected = 0.5 * min(1, (step + 1) / 4) * 0.5 * (1 + math.cos(math.pi * step / 8))
        assert rate == pytest.approx(expected)
        torch.testing.assert_close(weight.detach(), before - expected * weight.grad)


@pytest.mark.parametrize("ratio", [0.999, 1.001])
def test_a_gradient_is_clipped_only_above_the_limit(prose, ratio):
    unclipped = make_trainer(prose, optimizer="momentum", momentum=0.0, clip=0.0)
    norm = unclipped.step().gradient_norm
    clipped = make_trainer(prose, optimizer="momentum", momentum=0.0, clip=norm / ratio)
    assert clipped.step().gradient_norm == pytest.approx(norm)
    scale = min(1.0, 1 / ratio)
    for parameter, expected in zip(clipped.parameters, unclipped.parameters, strict=True):
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, scale * expected.grad, rtol=1e-5, atol=0)


def test_a_head_does_not_change_after_the_loss_of_its_layer_has_ended(prose):
    trainer = make_trainer(prose, steps=20, objective=ObjectiveConfig())
    head = trainer.objective.heads["layer1_target1"].weight
    changed = []
    for _ in range(20):
        before = head.detach().clone()
        trainer.step()
        changed.append(not torch.equal(head, before))
    assert changed == [True] * 4 + [False] * 16  # the loss ends at progress 1/6


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"batch": 0}, "training.batch is 0"),
        ({"learning_rate": 0.0}, "training.learning_rate is 0"),
        ({"learning_rate": float("nan")}, "must be a number above 0"),
        ({"steps": 0}, "exactly one budget"),
        ({"minutes": 1.0}, "exactly one budget"),
        ({"steps": -5}, "a budget must be above 0"),
        ({"micro_batch": 9}, "larger than training.batch"),
        ({"momentum": 1.0}, "below 1"),
    ],
)
def test_invalid_settings_are_refused(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        TrainingConfig(**({"batch": 4, "learning_rate": 0.1, "steps": 3} | fields))


def test_device_and_precision_by_name():
    assert choose_device("cpu").type == "cpu"
    for name, sentence in (
        ("cuda:99", "'cuda:99'; this machine has only"),
        ("cpux", "'cpux'; use auto, cpu, cuda, cuda:1 or mps"),
    ):
        with pytest.raises(UserError, match=sentence):
            choose_device(name)
    assert choose_precision("bfloat16", torch.device("cpu")) == torch.bfloat16
    assert choose_precision("auto", torch.device("cpu")) in (torch.bfloat16, torch.float32)


def test_momentum_is_one_optimizer_of_all_parameters(prose):
    trainer = make_trainer(prose, optimizer="momentum", momentum=0.99)
    (sgd,) = make_optimizers(trainer.settings, trainer.network, trainer.objective.heads, torch.float32)
    assert sgd.param_groups[0]["momentum"] == 0.99
    assert len(sgd.param_groups[0]["params"]) == len(named_parameters(trainer.network, trainer.objective.heads))


def test_diagnosis_changes_no_step_and_runs_every_n_steps(prose):
    plain, diagnosed = (make_trainer(prose, steps=12, diagnose_every=every) for every in (0, 4))
    for step in range(12):
        expected, result = plain.step(), diagnosed.step()
        assert expected.diagnosis is None and (result.diagnosis is not None) == (step % 4 == 0)
        assert float(expected.report.total).hex() == float(result.report.total).hex()
        if step == 0:
            assert set(result.diagnosis.groups) == {"layers", "targets"}
            assert list(result.diagnosis.total_norms) == ["layer1", "layer2", "layer3"]
        if step == 8:  # the losses of all intermediate layers have ended
            assert set(result.diagnosis.groups) == {"targets"}
    pairs = zip(plain.network.parameters(), diagnosed.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_gradient_norms_without_auxiliary_terms(prose):
    """They are those of the gradient of the step, before it is clipped, and the step is the same without them."""
    objective = ObjectiveConfig(intermediate=False, targets=1)
    trainer = make_trainer(prose, objective=objective, steps=2, diagnose_every=1, clip=0.0)
    other = make_trainer(prose, objective=objective, steps=2, diagnose_every=0, clip=0.0)
    diagnosis = trainer.step().diagnosis
    assert other.step().diagnosis is None
    expected = {
        f"layer{layer}": math.sqrt(sum(float(p.grad.square().sum()) for p in block.parameters()))
        for layer, block in enumerate(other.network.blocks, 1)
    }
    assert (diagnosis.groups, diagnosis.main_share, diagnosis.main_norms) == ({}, 1.0, diagnosis.total_norms)
    assert diagnosis.total_norms == pytest.approx(expected, rel=1e-5)
    for one, two in zip(trainer.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(one, two)


def test_cut_windows_are_used_first_and_read_the_same_text(prose):
    lengths = []
    trainer = make_trainer(prose, steps=4, batch=4, cut_windows=4, cut_until=0.5, micro_batch=2)
    trainer.network.register_forward_pre_hook(lambda _, inputs: lengths.append(tuple(inputs[0].shape)))
    for _ in range(4):
        report = trainer.step().report
        assert report.terms["main"].count == 4 * 16
    assert lengths == 4 * [(8, 4)] + 4 * [(2, 16)]
    assert trainer.counters.characters == 4 * 4 * 16
    assert trainer.windows.examples_taken == 16


def test_a_run_with_cut_windows_resumes_bitwise(prose):
    uninterrupted, first, second = (make_trainer(prose, steps=6, cut_windows=2) for _ in range(3))
    for _ in range(6):
        uninterrupted.step()
    for _ in range(2):
        first.step()
    second.restore(first.checkpoint())
    for _ in range(4):
        second.step()
    for name, tensor in uninterrupted.network.state_dict().items():
        assert torch.equal(tensor, second.network.state_dict()[name]), name


def test_windows_with_too_few_characters_to_cut_are_refused(prose):
    with pytest.raises(UserError, match=r"training\.cut_windows is 17; windows of 16 characters"):
        make_trainer(prose, cut_windows=17)
    trainer = make_trainer(prose, cut_windows=3, batch=2)
    trainer.step()
    assert trainer.counters.characters == 2 * 15
