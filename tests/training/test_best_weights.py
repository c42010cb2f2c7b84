"""The best weights of a run, and training that ends early when validations do not improve."""

import math

import pytest
import torch
from safetensors.torch import load_file

from charladder.training import CheckpointSaved, ValidationCompleted, load_newest, train
from charladder.training.best_weights import BEST_HEADS_FILE, BEST_NETWORK_FILE, BestWeights, read_best
from charladder.training.metrics import is_validation, read_metrics
from helpers import make_trainer


def run_training(trainer, folder, scores, stop_after=None):
    """Trains, with validations that return `scores` in order; returns the events."""
    folder.mkdir(exist_ok=True)
    remaining = iter(scores)
    stop = (lambda: trainer.counters.step >= stop_after) if stop_after else (lambda: False)
    return list(train(trainer, folder, lambda: next(remaining), stop))


def resumed_trainer(prose, folder, **settings):
    trainer = make_trainer(prose, **settings)
    trainer.restore(load_newest(folder / "checkpoints"))
    return trainer


def test_best_weights_are_network_and_heads_of_the_best_step(tmp_path, prose):
    run = tmp_path / "run"
    run_training(make_trainer(prose, steps=10), run, [3.0, 2.0, 2.5, 2.6, 2.7])
    assert read_best(run / BEST_NETWORK_FILE) == read_best(run / BEST_HEADS_FILE) == BestWeights(4, 2.0)
    trainer = make_trainer(prose, steps=10)
    for _ in range(4):
        trainer.step()
    for name, module in ((BEST_NETWORK_FILE, trainer.network), (BEST_HEADS_FILE, trainer.objective)):
        saved, expected = load_file(run / name), module.state_dict()
        assert saved.keys() == expected.keys()
        assert all(torch.equal(saved[key], expected[key]) for key in saved), name


def test_no_best_weights_are_saved_if_the_last_weights_are_the_best(tmp_path, prose):
    run_training(make_trainer(prose, steps=10), tmp_path / "run", [3.0, 2.9, 2.8, 2.7, 2.6])
    assert not (tmp_path / "run" / BEST_NETWORK_FILE).exists() and not (tmp_path / "run" / BEST_HEADS_FILE).exists()


def test_an_extended_run_saves_its_last_weights_as_the_best(tmp_path, prose):
    run = tmp_path / "run"
    run_training(make_trainer(prose, steps=10), run, [3.0, 2.9, 2.8, 2.7, 2.6])
    last_weights = load_file(run / "model.safetensors")
    # The resumed run first scores 2.6 again; validations are due after steps 12 and 16, and at the end
    run_training(resumed_trainer(prose, run, steps=20), run, [2.6, 2.9, 2.8, 2.7])
    assert read_best(run / BEST_NETWORK_FILE) == BestWeights(10, 2.6)
    assert all(torch.equal(tensor, last_weights[name]) for name, tensor in load_file(run / BEST_NETWORK_FILE).items())


def test_best_weights_may_be_of_a_later_step_than_the_restored_checkpoint(tmp_path, prose):
    """A crash lost the steps after the checkpoint, but not the best weights; the resumed run repeats their step."""
    run = tmp_path / "run"
    run_training(make_trainer(prose, steps=10, validations=9), run, [5.0, 4.0, 3.0], 3)
    run_training(resumed_trainer(prose, run, steps=10, validations=9), run, [2.0, 2.5], 5)
    (run / "checkpoints" / "5" / "state.json").write_text("{}")
    trainer = resumed_trainer(prose, run, steps=10, validations=9)
    events = run_training(trainer, run, [2.0, 2.5, 2.6, 2.7, 2.8, 2.9, 2.95])
    assert [event.best for event in events if isinstance(event, ValidationCompleted)] == [True] + 5 * [False]
    assert read_best(run / BEST_NETWORK_FILE) == BestWeights(4, 2.0)


@pytest.mark.parametrize(
    ("patience", "scores", "steps"),
    [
        (2, [3.0, 2.0, 2.5, 2.5, 2.5], 8),
        (2, [3.0, 2.0, 2.0, 2.0, 2.0], 8),  # an equal score is not an improvement
        (2, [3.0, 2.0, 2.5, 1.9, 2.0, 2.1, 2.1], 12),
        (0, [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 8.0, 8.0, 8.0, 8.0], 20),
    ],
)
def test_training_ends_when_validations_in_a_row_do_not_improve(tmp_path, prose, patience, scores, steps):
    trainer = make_trainer(prose, steps=20, validations=9, patience=patience)
    *_, last = run_training(trainer, tmp_path / "run", scores)
    assert trainer.counters.step == steps
    assert isinstance(last, CheckpointSaved) and not last.interrupted and last.early == (patience > 0)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [str(steps)]


@pytest.mark.parametrize("stop", [4, 5, 6, 7])
def test_a_resumed_run_ends_early_at_the_same_step(tmp_path, prose, stop):
    settings = {"steps": 20, "validations": 9, "patience": 2}
    scores = {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.5}
    run = tmp_path / "run"
    first = make_trainer(prose, **settings)
    run_training(first, run, [bits for step, bits in scores.items() if step <= stop], stop)
    second = resumed_trainer(prose, run, **settings)
    run_training(second, run, [bits for step, bits in scores.items() if step > stop] + [2.5])
    assert second.counters.step == 8
    third = resumed_trainer(prose, run, **settings)
    run_training(third, run, [2.5])
    assert third.counters.step == 8, "a run that has ended early takes no further steps"
    lines = [line for line in read_metrics(run / "metrics.jsonl") if is_validation(line)]
    assert {line["step"]: line["bits_per_character"] for line in lines} == scores


@pytest.mark.parametrize("first", [3.0, math.nan])
@pytest.mark.parametrize("stop", [3, 5])
def test_validations_that_are_not_finite_count_as_no_improvement_also_after_a_resume(tmp_path, prose, first, stop):
    settings = {"steps": 20, "validations": 9, "patience": 2 if math.isfinite(first) else 3}
    scores = {2: first, 4: math.nan, 6: math.nan}
    run = tmp_path / "run"
    run_training(make_trainer(prose, **settings), run, [bits for step, bits in scores.items() if step <= stop], stop)
    trainer = resumed_trainer(prose, run, **settings)
    rest = [bits for step, bits in scores.items() if step > stop]
    # Without a file of best weights, the resumed run scores the last weights again, to save them as the best.
    scored_again = [] if (run / BEST_NETWORK_FILE).exists() else [first]
    run_training(trainer, run, [*scored_again, *rest, math.nan])
    assert trainer.counters.step == 6
    best = read_best(run / BEST_NETWORK_FILE)
    assert (best is None) == math.isnan(first)
    assert (run / BEST_NETWORK_FILE).exists() == math.isfinite(first)
