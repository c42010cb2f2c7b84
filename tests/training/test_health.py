"""Skipped steps: a few are allowed; too many stop the run, and its last checkpoint stays intact."""

import math

import pytest
import torch

from charladder.training import SlowStep, StepCompleted, StepSkipped, TrainingDiverged, load_newest, train
from charladder.training.health import LOSS_WINDOW, MIN_LOSSES, NATS_PER_BIT, RECENT_STEPS, Health, restore_health
from charladder.training.metrics import read_metrics
from helpers import make_trainer


def weights(trainer):
    parts = (*trainer.network.state_dict().items(), *trainer.objective.state_dict().items())
    return {name: value.clone() for name, value in parts}


def corrupt_gradients(trainer, steps, value=math.nan):
    """Adds `value` to a gradient in each of these steps, once."""
    remaining = set(steps)
    parameter = trainer.network.embedding.weight

    def corrupt(gradient):
        if trainer.counters.step + 1 in remaining:
            remaining.remove(trainer.counters.step + 1)
            return gradient + value
        return gradient

    parameter.register_hook(corrupt)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_logged_and_changes_no_weights(prose, tmp_path, value):
    trainer = make_trainer(prose, steps=8, log_every=100, diagnose_every=0)
    corrupt_gradients(trainer, [3, 5], value)
    before, events = {}, []
    for event in train(trainer, tmp_path):
        events.append(event)
        if isinstance(event, StepSkipped):
            assert all(torch.equal(v, before[n]) for n, v in weights(trainer).items())
        before = weights(trainer)
    skipped = [event for event in events if isinstance(event, StepSkipped)]
    assert [event.step for event in skipped] == [3, 5]
    assert skipped[0].reason == f"the gradient's norm is {value}, though every loss is finite"
    lines = {line["step"]: line for line in read_metrics(tmp_path / "metrics.jsonl")}
    assert lines[3]["skipped"] == skipped[0].reason
    assert "terms" not in lines[3]
    assert trainer.counters.step == 8
    assert len([event for event in events if isinstance(event, StepCompleted)]) == 6


def test_too_many_skipped_steps_stop_the_run_and_keep_its_last_checkpoint(prose, tmp_path):
    trainer = make_trainer(prose, steps=20, skips=2, checkpoint_seconds=1e-9)
    corrupt_gradients(trainer, [6, 7, 8])
    with pytest.raises(TrainingDiverged, match=r"step 8: the gradient's norm is nan.*, and 2 of the 100 steps before"):
        list(train(trainer, tmp_path))
    checkpoint = load_newest(tmp_path / "checkpoints")
    assert checkpoint.state["clock"]["step"] == 7
    for name, value in trainer.network.state_dict().items():
        assert torch.equal(checkpoint.network[name], value)
        assert torch.isfinite(value).all()


def test_a_loss_spike_is_skipped_and_normal_steps_are_not(prose, tmp_path):
    trainer = make_trainer(prose, steps=MIN_LOSSES + 30)
    skipped = []
    for _ in range(MIN_LOSSES + 10):
        skipped.append(trainer.step().skipped)
    assert skipped == [None] * (MIN_LOSSES + 10)
    network, weight = trainer.network, trainer.network.output.weight.detach().clone()
    with torch.no_grad():
        network.output.weight *= -200
    facts = trainer.step()
    assert facts.skipped is not None and "the loss rose to" in facts.skipped
    with torch.no_grad():
        network.output.weight.copy_(weight)
    assert trainer.step().skipped is None


def test_a_spike_exceeds_the_highest_loss_by_robust_standard_deviations():
    def health():
        return Health([3.0 + 0.1 * (-1) ** at for at in range(MIN_LOSSES)], [])

    spread = 1.4826 * 0.1
    assert health().find_spike(3.1 + 7.9 * spread, 8.0) is None
    assert health().find_spike(2.0, 8.0) is None  # a lower loss is never a spike
    assert health().find_spike(3.1 + 8.1 * spread, 8.0) is not None
    assert health().find_spike(1e9, 0.0) is None  # disabled
    assert Health([3.0] * (MIN_LOSSES - 1), []).find_spike(1e9, 8.0) is None  # too few losses
    # A rise by less than one bit is never a spike, even if all losses were equal.
    assert Health([1.0] * MIN_LOSSES, []).find_spike(1.0 + 0.9 * NATS_PER_BIT, 8.0) is None
    assert Health([1.0] * MIN_LOSSES, []).find_spike(1.0 + 1.1 * NATS_PER_BIT, 8.0) is not None


@pytest.mark.parametrize("period", [1, 2, 10, 60])
def test_harder_text_is_a_spike_only_once(period):
    health = Health([1.0 + 0.01 * (at % 7) for at in range(MIN_LOSSES)], [])
    spikes = [health.find_spike(3.0 if at % period == 0 else 1.0, 12.0) for at in range(200)]
    assert sum(spike is not None for spike in spikes) == 1


def test_old_losses_and_skipped_steps_are_forgotten():
    health = Health()
    for step in (1, 50, 101, 151):
        health.record_skip(step, "bad", 2)
    assert health.skipped == [101, 151]
    with pytest.raises(TrainingDiverged):
        health.record_skip(152, "bad", 2)
    for _ in range(3 * LOSS_WINDOW):
        health.find_spike(1.0, 8.0)
    assert len(health.losses) == LOSS_WINDOW


def test_a_resumed_run_restores_its_health(prose, tmp_path):
    trainer = make_trainer(prose, steps=20)
    corrupt_gradients(trainer, [2])
    list(train(trainer, tmp_path, stop=lambda: trainer.counters.step >= 5))
    resumed = make_trainer(prose, steps=20)
    resumed.restore(load_newest(tmp_path / "checkpoints"))
    assert resumed.health == trainer.health
    assert resumed.health.skipped == [2] and len(resumed.health.losses) == 4


def test_the_largest_state_of_health_is_restored():
    health = Health()
    for step in range(2 * RECENT_STEPS):
        health.find_spike(1.0, 8.0)
        health.record_skip(step, "bad", RECENT_STEPS)
    assert (len(health.losses), len(health.skipped)) == (LOSS_WINDOW, RECENT_STEPS)
    assert restore_health(health.state()) == health


@pytest.mark.parametrize(
    "state",
    [
        {"losses": [1], "skipped": []},
        {"losses": [math.inf], "skipped": []},
        {"losses": [], "skipped": ["x"]},
        {"losses": [0.0] * (LOSS_WINDOW + 1), "skipped": []},
        {"losses": [], "skipped": [1] * (RECENT_STEPS + 1)},
    ],
)
def test_an_invalid_state_of_health_is_refused(state):
    with pytest.raises(ValueError, match="the state of the health of a run is invalid"):
        restore_health(state)


def test_a_slow_step_is_reported(prose, tmp_path, monkeypatch):
    trainer = make_trainer(prose, steps=30, diagnose_every=0)
    step, now = trainer.step, [0.0]
    monkeypatch.setattr("charladder.training.loop.time.perf_counter", lambda: now[0])

    def timed_step():
        facts = step()
        now[0] += 1.1 if trainer.counters.step == 25 else 0.1
        return facts

    trainer.step = timed_step
    slow = [event for event in train(trainer, tmp_path) if isinstance(event, SlowStep)]
    assert [event.step for event in slow] == [25]
    assert slow[0].seconds == pytest.approx(1.1) and slow[0].median_seconds == pytest.approx(0.1)
