"""An interrupted and resumed run is bitwise equal to an uninterrupted one."""

import json

import pytest
import torch
from safetensors.torch import load_file

from charladder.errors import DamagedDataWarning, UserError
from charladder.training import TrainingDiverged, ValidationCompleted, load_newest, train
from charladder.training.curves import _read_diagnoses, _validation_points, draw_curves
from charladder.training.metrics import read_metrics
from helpers import make_trainer, small

CASES = {
    "muon": {"optimizer": "muon"},
    "adamw": {"optimizer": "adamw"},
    "momentum": {"optimizer": "momentum", "momentum": 0.9},
}


def run(trainer, folder, stop_after=None):
    """Trains until the end, or until the step `stop_after`; returns the events."""
    stop = (lambda: trainer.counters.step >= stop_after) if stop_after else (lambda: False)
    return list(train(trainer, folder, lambda: 8.0, stop))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("order", ["random", "epochs"])
def test_a_resumed_run_equals_an_uninterrupted_run(tmp_path, prose, case, order):
    def new_trainer():
        return make_trainer(prose, small(dropout=0.1), order=order, steps=12, log_every=1, **CASES[case])

    uninterrupted = new_trainer()
    run(uninterrupted, make(tmp_path / "uninterrupted"))
    folder = make(tmp_path / "resumed")
    for stop in (5, 6, None):
        resumed = new_trainer()
        if (checkpoint := load_newest(folder / "checkpoints")) is not None:
            resumed.restore(checkpoint)
        run(resumed, folder, stop)
    assert resumed.counters.step == uninterrupted.counters.step == 12
    for module, expected in (
        (resumed.network, uninterrupted.network),
        (resumed.objective, uninterrupted.objective),
    ):
        for (name, a), b in zip(module.state_dict().items(), expected.state_dict().values(), strict=True):
            assert torch.equal(a, b), name
    lines = [read_metrics(path / "metrics.jsonl") for path in (folder, tmp_path / "uninterrupted")]
    steps = [[line for line in file_lines if "terms" in line] for file_lines in lines]
    assert [line["step"] for line in steps[0]] == list(range(1, 13))
    for a, b in zip(*steps, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


def make(path):
    path.mkdir()
    return path


def test_lines_after_the_checkpoint_are_removed_and_written_again(tmp_path, prose):
    trainer = make_trainer(prose, steps=8, log_every=1)
    run(trainer, tmp_path, 4)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 5, "terms": {}}) + '\n{"step": 6, "ter')
    resumed = make_trainer(prose, steps=8, log_every=1)
    resumed.restore(load_newest(tmp_path / "checkpoints"))
    with pytest.warns(DamagedDataWarning, match="line 7 of"):
        run(resumed, tmp_path)
    steps = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl") if "terms" in line]
    assert steps == list(range(1, 9))


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path, prose):
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
    resumed = make_trainer(prose, steps=8)
    resumed.restore(load_newest(tmp_path / "checkpoints"))
    run(resumed, tmp_path)
    assert load_newest(tmp_path / "checkpoints").state["clock"]["step"] == 8
    for name, value in resumed.network.state_dict().items():
        assert torch.equal(value, trainer.network.state_dict()[name])


def test_a_new_checkpoint_replaces_damaged_later_ones(tmp_path, prose):
    for step in ("100", "200"):
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
    run(make_trainer(prose, steps=4), tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["4"]


def test_a_run_with_only_damaged_checkpoints_is_refused(tmp_path, prose):
    run(make_trainer(prose, steps=4), tmp_path)
    (tmp_path / "checkpoints" / "4" / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"no checkpoint in .* is intact"):
        load_newest(tmp_path / "checkpoints")


def test_a_checkpoint_of_another_network_is_refused(tmp_path, prose):
    run(make_trainer(prose, steps=4), tmp_path)
    with pytest.raises(UserError, match="checkpoint of step 4 does not fit"):
        make_trainer(prose, small(width=64), steps=4).restore(load_newest(tmp_path / "checkpoints"))


def test_validations_are_plotted_over_trained_characters(tmp_path, prose):
    run(make_trainer(prose, steps=10, validations=4), tmp_path)
    points = _validation_points(read_metrics(tmp_path / "metrics.jsonl"))
    assert [round(x * 1e6) for x, _ in points] == [64 * step for step in (2, 4, 6, 8)]
    assert draw_curves(tmp_path).read_bytes()[1:4] == b"PNG"


def test_weights_that_are_not_finite_are_not_saved(tmp_path, prose):
    trainer = make_trainer(prose, steps=4)
    run(trainer, tmp_path, 2)
    with torch.no_grad():
        trainer.network.embedding.weight[0, 0] = float("inf")
    with pytest.raises(TrainingDiverged, match=r"step 2: the weights network\.embedding\.weight"):
        trainer.check_weights()


def test_a_budget_in_minutes_logs_the_progress_of_every_step(tmp_path, prose):
    trainer = make_trainer(prose, steps=0, minutes=0.02, log_every=5)
    run(trainer, tmp_path)
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if "progress" in line]
    assert [line["step"] for line in lines] == list(range(1, trainer.counters.step + 1))
    progress = [line["progress"] for line in lines]
    assert progress == sorted(progress)
    assert trainer.counters.seconds >= 1.2


@pytest.mark.parametrize("stop", [3, 4, 5])
def test_a_resumed_run_validates_when_the_uninterrupted_one_does(tmp_path, prose, stop):
    """Five validations in twelve steps are after steps 2, 4, 6, 8 and 10, whatever step the run was interrupted at."""
    first = make_trainer(prose, steps=12, validations=5)
    run(first, tmp_path, stop)
    resumed = make_trainer(prose, steps=12, validations=5)
    resumed.restore(load_newest(tmp_path / "checkpoints"))
    run(resumed, tmp_path)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if "split" in line] == [2, 4, 6, 8, 10]


def test_of_equal_validations_the_first_is_the_best(tmp_path, prose):
    """A later validation with the same score does not replace it, but the last weights with the same score do."""
    weights: dict[int, torch.Tensor] = {}
    for name, last in (("best", 2.5), ("tie", 2.0)):
        trainer, scores = make_trainer(prose, steps=10), iter([3.0, 2.0, 2.0, 2.5, last])

        def validate(trainer=trainer, scores=scores):
            weights[trainer.counters.step] = trainer.network.output.weight.detach().clone()
            return next(scores)

        events = list(train(trainer, make(tmp_path / name), validate))
        assert [event.best for event in events if isinstance(event, ValidationCompleted)][:4] == [
            True,
            True,
            False,
            False,
        ]
        assert (tmp_path / name / "best.safetensors").exists() == (name == "best")
    best = load_file(tmp_path / "best" / "best.safetensors")["output.weight"]
    assert torch.equal(best, weights[4]) and not torch.equal(best, weights[6])


def test_best_weights_are_kept_only_if_they_are_better_than_the_last(tmp_path, prose):
    for scores, is_kept in (([3.0, 2.0, 2.5, 2.6, 2.7], True), ([3.0, 2.9, 2.8, 2.7, 2.6], False)):
        folder = make(tmp_path / str(is_kept))
        remaining = iter(scores)
        list(train(make_trainer(prose, steps=10), folder, lambda remaining=remaining: next(remaining)))
        assert (folder / "best.safetensors").exists() == is_kept


def test_diagnoses_are_drawn_and_damaged_ones_are_skipped(tmp_path, prose):
    run(make_trainer(prose, steps=6, diagnose_every=2), tmp_path)
    path = tmp_path / "metrics.jsonl"
    steps = [line for line in read_metrics(path) if "terms" in line]
    assert [line["step"] for line in steps if "diagnosis" in line] == [1, 3, 5]
    diagnoses = _read_diagnoses(steps)
    assert len(diagnoses) == 3 and set(diagnoses[0][1].groups) == {"layers", "targets"}
    assert diagnoses[1][0] == 3 * 64 / 1e6
    valid = steps[0]["diagnosis"]
    changes = [{"groups": 3}, {"groups": {"layers": {"cosine": 1}}}, {"main_share": "x"}, {"groups": {"layers": 7}},
               {"gradient_norms": {"layer1": 1.0}}]  # fmt: skip
    damaged = [None, *({**valid, **change} for change in changes)]
    assert _read_diagnoses([{**steps[1], "diagnosis": damage} for damage in damaged]) == []
    for line, damage in zip(steps, damaged[1:], strict=False):
        line["diagnosis"] = damage
    steps[3]["diagnosis"] = {**valid, "gradient_norms": {"other": 1.0}, "gradient_norms_without": {"other": 1.0}}
    path.write_text("".join(json.dumps(line) + "\n" for line in steps))
    assert draw_curves(tmp_path).read_bytes()[1:4] == b"PNG"
