"""The best weights of a run, and training that ends when validations get no better."""

import math

import pytest
import torch
from safetensors.torch import load_file

from charladder.training import CheckpointSaved, ValidationCompleted, load_newest, train
from charladder.training.best_weights import BEST_HEADS_FILE, BEST_NETWORK_FILE, BestWeights, read_best
from charladder.training.metrics import is_validation, read_metrics
from helpers import make_trainer


def follow(trainer, folder, scores, stop_after=None):
    """Trains, with validations that give `scores` in their order; returns the events."""
    folder.mkdir(exist_ok=True)
    left = iter(scores)
    asked = (lambda: trainer.clock.step >= stop_after) if stop_after else (lambda: False)
    return list(train(trainer, folder, lambda: next(left), asked))


def resumed(prose, folder, **settings):
    trainer = make_trainer(prose, **settings)
    trainer.restore(load_newest(folder / "checkpoints"))
    return trainer


def test_best_weights_are_those_of_their_step_with_its_heads(tmp_path, prose):
    run = tmp_path / "run"
    follow(make_trainer(prose, steps=10), run, [3.0, 2.0, 2.5, 2.6, 2.7])
    assert read_best(run / BEST_NETWORK_FILE) == read_best(run / BEST_HEADS_FILE) == BestWeights(4, 2.0)
    again = make_trainer(prose, steps=10)
    for _ in range(4):
        again.step()
    for name, module in ((BEST_NETWORK_FILE, again.network), (BEST_HEADS_FILE, again.objective)):
        kept, expected = load_file(run / name), module.state_dict()
        assert kept.keys() == expected.keys()
        assert all(torch.equal(kept[key], expected[key]) for key in kept), name


def test_where_the_last_weights_are_the_best_no_others_are_kept(tmp_path, prose):
    follow(make_trainer(prose, steps=10), tmp_path / "run", [3.0, 2.9, 2.8, 2.7, 2.6])
    assert not (tmp_path / "run" / BEST_NETWORK_FILE).exists() and not (tmp_path / "run" / BEST_HEADS_FILE).exists()


def test_an_extended_run_keeps_the_weights_that_it_had_ended_with(tmp_path, prose):
    run = tmp_path / "run"
    follow(make_trainer(prose, steps=10), run, [3.0, 2.9, 2.8, 2.7, 2.6])
    ended = load_file(run / "model.safetensors")
    # 2.6 is scored again at the begin; validations are due after steps 12 and 16, and at the end
    follow(resumed(prose, run, steps=20), run, [2.6, 2.9, 2.8, 2.7])
    assert read_best(run / BEST_NETWORK_FILE) == BestWeights(10, 2.6)
    assert all(torch.equal(tensor, ended[name]) for name, tensor in load_file(run / BEST_NETWORK_FILE).items())


def test_best_weights_after_the_checkpoint_that_a_run_goes_on_from(tmp_path, prose):
    """A crash took the steps after the checkpoint away, but not the best weights, which come again."""
    run = tmp_path / "run"
    follow(make_trainer(prose, steps=10, validations=9), run, [5.0, 4.0, 3.0], 3)
    follow(resumed(prose, run, steps=10, validations=9), run, [2.0, 2.5], 5)
    (run / "checkpoints" / "5" / "state.json").write_text("{}")
    events = follow(resumed(prose, run, steps=10, validations=9), run, [2.0, 2.5, 2.6, 2.7, 2.8, 2.9, 2.95])
    assert [event.best for event in events if isinstance(event, ValidationCompleted)] == [True] + 5 * [False]
    assert read_best(run / BEST_NETWORK_FILE) == BestWeights(4, 2.0)


@pytest.mark.parametrize(
    ("patience", "scores", "steps"),
    [
        (2, [3.0, 2.0, 2.5, 2.5, 2.5], 8),
        (2, [3.0, 2.0, 2.0, 2.0, 2.0], 8),  # as good is no better
        (2, [3.0, 2.0, 2.5, 1.9, 2.0, 2.1, 2.1], 12),
        (0, [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 8.0, 8.0, 8.0, 8.0], 20),
    ],
)
def test_training_ends_when_validations_in_a_row_get_no_better(tmp_path, prose, patience, scores, steps):
    trainer = make_trainer(prose, steps=20, validations=9, patience=patience)
    *_, saved = follow(trainer, tmp_path / "run", scores)
    assert trainer.clock.step == steps
    assert isinstance(saved, CheckpointSaved) and not saved.interrupted and saved.early == (patience > 0)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [str(steps)]


@pytest.mark.parametrize("stop", [4, 5, 6, 7])
def test_a_resumed_run_has_as_much_patience_as_the_uninterrupted_one(tmp_path, prose, stop):
    settings = {"steps": 20, "validations": 9, "patience": 2}
    scores = {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.5}
    run = tmp_path / "run"
    begun = make_trainer(prose, **settings)
    follow(begun, run, [bits for step, bits in scores.items() if step <= stop], stop)
    again = resumed(prose, run, **settings)
    follow(again, run, [bits for step, bits in scores.items() if step > stop] + [2.5])
    assert again.clock.step == 8
    done = resumed(prose, run, **settings)
    follow(done, run, [2.5])
    assert done.clock.step == 8, "a run that has ended early has ended"
    lines = [line for line in read_metrics(run / "metrics.jsonl") if is_validation(line)]
    assert {line["step"]: line["bits_per_character"] for line in lines} == scores


@pytest.mark.parametrize("first", [3.0, math.nan])
@pytest.mark.parametrize("stop", [3, 5])
def test_validations_that_are_not_finite_count_as_no_better_also_after_a_resume(tmp_path, prose, first, stop):
    settings = {"steps": 20, "validations": 9, "patience": 2 if math.isfinite(first) else 3}
    scores = {2: first, 4: math.nan, 6: math.nan}
    run = tmp_path / "run"
    follow(make_trainer(prose, **settings), run, [bits for step, bits in scores.items() if step <= stop], stop)
    again = resumed(prose, run, **settings)
    rest = [bits for step, bits in scores.items() if step > stop]
    once_more = (
        [] if (run / BEST_NETWORK_FILE).exists() else [first]
    )  # the last weights, scored again to be kept as the best
    follow(again, run, [*once_more, *rest, math.nan])
    assert again.clock.step == 6
    best = read_best(run / BEST_NETWORK_FILE)
    assert (best is None) == math.isnan(first)
    assert (run / BEST_NETWORK_FILE).exists() == math.isfinite(first)
