"""Bad steps are left out, a few of them; too many end the run, with all that was good as it was."""

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


def poison(trainer, steps, value=math.nan):
    """Makes the gradients of these steps bad, once each."""
    left = set(steps)
    parameter = trainer.network.embedding.weight

    def spoil(gradient):
        if trainer.clock.step + 1 in left:
            left.remove(trainer.clock.step + 1)
            return gradient + value
        return gradient

    parameter.register_hook(spoil)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_gradient_changes_nothing_is_logged_and_the_run_goes_on(prose, tmp_path, value):
    trainer = make_trainer(prose, steps=8, log_every=100, diagnose_every=0)
    poison(trainer, [3, 5], value)
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
    assert trainer.clock.step == 8
    assert len([event for event in events if isinstance(event, StepCompleted)]) == 6


def test_more_bad_steps_than_allowed_end_the_run_with_the_last_good_weights(prose, tmp_path):
    trainer = make_trainer(prose, steps=20, skips=2, checkpoint_seconds=1e-9)
    poison(trainer, [6, 7, 8])
    with pytest.raises(TrainingDiverged, match=r"step 8: the gradient's norm is nan.*, and 2 of the 100 steps before"):
        list(train(trainer, tmp_path))
    kept = load_newest(tmp_path / "checkpoints")
    assert kept.state["clock"]["step"] == 7
    for name, value in trainer.network.state_dict().items():
        assert torch.equal(kept.network[name], value)
        assert torch.isfinite(value).all()


def test_a_leap_is_left_out_and_the_learning_of_text_is_not(prose, tmp_path):
    trainer = make_trainer(prose, steps=MIN_LOSSES + 30)
    with_leap = []
    for _ in range(MIN_LOSSES + 10):
        with_leap.append(trainer.step().skipped)
    assert with_leap == [None] * (MIN_LOSSES + 10)
    network, kept = trainer.network, trainer.network.output.weight.detach().clone()
    with torch.no_grad():
        network.output.weight *= -200
    facts = trainer.step()
    assert facts.skipped is not None and "the loss leapt to" in facts.skipped
    with torch.no_grad():
        network.output.weight.copy_(kept)
    assert trainer.step().skipped is None


def test_a_leap_is_counted_from_the_highest_in_robust_deviations():
    def known():
        return Health([3.0 + 0.1 * (-1) ** at for at in range(MIN_LOSSES)], [])

    spread = 1.4826 * 0.1
    assert known().find_spike(3.1 + 7.9 * spread, 8.0) is None
    assert known().find_spike(2.0, 8.0) is None  # lower is always well
    assert known().find_spike(3.1 + 8.1 * spread, 8.0) is not None
    assert known().find_spike(1e9, 0.0) is None  # switched off
    assert Health([3.0] * (MIN_LOSSES - 1), []).find_spike(1e9, 8.0) is None  # too little is known
    # Less than a bit is no leap, however steady the losses were.
    assert Health([1.0] * MIN_LOSSES, []).find_spike(1.0 + 0.9 * NATS_PER_BIT, 8.0) is None
    assert Health([1.0] * MIN_LOSSES, []).find_spike(1.0 + 1.1 * NATS_PER_BIT, 8.0) is not None


@pytest.mark.parametrize("often", [1, 2, 10, 60])
def test_text_that_is_harder_now_and_then_or_from_here_on_is_a_leap_once(often):
    health = Health([1.0 + 0.01 * (at % 7) for at in range(MIN_LOSSES)], [])
    leaps = [health.find_spike(3.0 if at % often == 0 else 1.0, 12.0) for at in range(200)]
    assert sum(leap is not None for leap in leaps) == 1


def test_what_lies_far_back_is_forgotten():
    health = Health()
    for step in (1, 50, 101, 151):
        health.record_skip(step, "bad", 2)
    assert health.skipped == [101, 151]
    with pytest.raises(TrainingDiverged):
        health.record_skip(152, "bad", 2)
    for _ in range(3 * LOSS_WINDOW):
        health.find_spike(1.0, 8.0)
    assert len(health.losses) == LOSS_WINDOW


def test_health_outlives_an_interruption(prose, tmp_path):
    trainer = make_trainer(prose, steps=20)
    poison(trainer, [2])
    list(train(trainer, tmp_path, stop=lambda: trainer.clock.step >= 5))
    again = make_trainer(prose, steps=20)
    again.restore(load_newest(tmp_path / "checkpoints"))
    assert again.health == trainer.health
    assert again.health.skipped == [2] and len(again.health.losses) == 4


def test_as_many_losses_and_left_out_steps_as_a_run_remembers_are_restored():
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
def test_health_that_no_run_writes_is_refused(state):
    with pytest.raises(ValueError, match="not what a run writes"):
        restore_health(state)


def test_a_slow_step_is_told(prose, tmp_path, monkeypatch):
    trainer = make_trainer(prose, steps=30, diagnose_every=0)
    step, now = trainer.step, [0.0]
    monkeypatch.setattr("charladder.training.loop.time.perf_counter", lambda: now[0])

    def timed():
        facts = step()
        now[0] += 1.1 if trainer.clock.step == 25 else 0.1
        return facts

    trainer.step = timed
    slow = [event for event in train(trainer, tmp_path) if isinstance(event, SlowStep)]
    assert [event.step for event in slow] == [25]
    assert slow[0].seconds == pytest.approx(1.1) and slow[0].median_seconds == pytest.approx(0.1)
