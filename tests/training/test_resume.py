"""A run that is interrupted and resumed is the uninterrupted one, bit for bit."""

import json

import pytest
import torch

from charladder.training import load_newest, train
from charladder.training.metrics import read_metrics
from helpers import make_trainer, small

CASES = {
    "muon": {"optimizer": "muon"},
    "adamw": {"optimizer": "adamw"},
    "momentum": {"optimizer": "momentum", "momentum": 0.9},
}


def run(trainer, folder, stop_after=None):
    asked = (lambda: trainer.clock.step >= stop_after) if stop_after else (lambda: False)
    return list(train(trainer, folder, lambda: 8.0, asked))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("order", ["random", "epochs"])
def test_resumed_equals_uninterrupted(tmp_path, prose, case, order):
    def fresh():
        return make_trainer(prose, small(dropout=0.1), order=order, steps=12, log_every=1, **CASES[case])

    whole = fresh()
    run(whole, make(tmp_path / "whole"))
    folder = make(tmp_path / "pieces")
    for stop in (5, 6, None):
        piece = fresh()
        if (checkpoint := load_newest(folder / "checkpoints")) is not None:
            piece.restore(checkpoint)
        run(piece, folder, stop)
    assert piece.clock.step == whole.clock.step == 12
    for mine, other in ((piece.network, whole.network), (piece.objective, whole.objective)):
        for (name, a), b in zip(mine.state_dict().items(), other.state_dict().values(), strict=True):
            assert torch.equal(a, b), name
    lines = [read_metrics(path / "metrics.jsonl") for path in (folder, tmp_path / "whole")]
    steps = [[line for line in part if "terms" in line] for part in lines]
    assert [line["step"] for line in steps[0]] == list(range(1, 13))
    for a, b in zip(*steps, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


def make(path):
    path.mkdir()
    return path


def test_lines_beyond_the_checkpoint_are_written_again_not_twice(tmp_path, prose):
    trainer = make_trainer(prose, steps=8, log_every=1)
    run(trainer, tmp_path, 4)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 5, "terms": {}}) + '\n{"step": 6, "ter')
    resumed = make_trainer(prose, steps=8, log_every=1)
    resumed.restore(load_newest(tmp_path / "checkpoints"))
    run(resumed, tmp_path)
    steps = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl") if "terms" in line]
    assert steps == list(range(1, 9))


def test_a_broken_checkpoint_is_passed_over_for_the_one_before(tmp_path, prose):
    trainer = make_trainer(prose, steps=8)
    run(trainer, tmp_path, 4)
    run(trainer, tmp_path)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["4", "8"]
    weights = tmp_path / "checkpoints" / "8" / "network.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    assert load_newest(tmp_path / "checkpoints").state["clock"]["step"] == 4


def test_minutes_write_the_progress_of_every_step(tmp_path, prose):
    trainer = make_trainer(prose, steps=0, minutes=0.02, log_every=5)
    run(trainer, tmp_path)
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if "progress" in line]
    assert [line["step"] for line in lines] == list(range(1, trainer.clock.step + 1))
    progress = [line["progress"] for line in lines]
    assert progress == sorted(progress)
    assert trainer.clock.seconds >= 1.2


def test_best_weights_are_kept_only_where_they_are_better_than_the_last(tmp_path, prose):
    for scores, kept in (([3.0, 2.0, 2.5, 2.6, 2.7], True), ([3.0, 2.9, 2.8, 2.7, 2.6], False)):
        folder = make(tmp_path / str(kept))
        left = iter(scores)
        list(train(make_trainer(prose, steps=10), folder, lambda left=left: next(left)))
        assert (folder / "best.safetensors").exists() == kept
