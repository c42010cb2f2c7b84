"""Two ranks (gloo) compared with one, over fifty steps; each reads the checkpoints of the other."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from charladder.errors import UserError
from charladder.text import Windows
from charladder.training import load_newest
from charladder.training.checkpoint import list_checkpoints
from charladder.training.metrics import read_metrics
from distributed import work
from helpers import make_trainer, small

EXACT = [name for name in work.CASES if name != "ddp muon" and "bfloat16" not in name]
SHARDED = [name for name in work.CASES if name.startswith("fsdp")]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders with the results of two ranks and of one; the workers of pytest-xdist share them."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "popen" in base.name else base) / "distributed"
    folder.mkdir(exist_ok=True)
    return work.results(folder)


def tensors(ranks, name, at="end"):
    return [load_file(folder / name / f"{at}.safetensors") for folder in ranks]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_two_ranks_and_one_have_the_same_weights(ranks, name):
    two, one = tensors(ranks, name)
    assert two.keys() == one.keys()
    for key in one:
        scale = one[key].abs().max().clamp(min=1e-300)
        assert float((two[key] - one[key]).abs().max() / scale) < 1e-9, key


@pytest.mark.slow
@pytest.mark.parametrize("name", [*work.CASES])
def test_two_ranks_and_one_log_the_same_losses_at_every_step(ranks, name):
    two, one = ([m for m in read_metrics(p / name / "metrics.jsonl") if "terms" in m] for p in ranks)
    steps = [step for step in range(1, work.STEPS + 1) if not (name.endswith("nan") and step == 6)]
    assert [line["step"] for line in two] == [line["step"] for line in one] == steps
    tolerance = 0.02 if "bfloat16" in name else 1e-6 if name == "ddp muon" else 1e-9
    for a, b in zip(two, one, strict=True):
        assert a["terms"].keys() == b["terms"].keys()
        assert a["characters"] == b["characters"]
        for term in a["terms"]:
            assert a["terms"][term]["bits"] == pytest.approx(b["terms"][term]["bits"], rel=tolerance), (a["step"], term)
        assert a["total"] == pytest.approx(b["total"], rel=tolerance)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=10 * tolerance)
    if name == "ddp diagnosed":
        assert [("diagnosis" in line) for line in two] == [("diagnosis" in line) for line in one]
        assert any("diagnosis" in line for line in two)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp nan", "fsdp nan"])
def test_both_ranks_skip_a_step_that_is_not_finite_on_one(ranks, name):
    for folder in ranks:
        skipped = [line for line in read_metrics(folder / name / "metrics.jsonl") if "skipped" in line]
        assert [line["step"] for line in skipped] == [6]
        assert "the loss is not finite in" in skipped[0]["skipped"] and "main" in skipped[0]["skipped"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*work.CASES])
def test_two_ranks_and_one_have_the_same_validations(ranks, name):
    two, one = ([m for m in read_metrics(p / name / "metrics.jsonl") if "split" in m] for p in ranks)
    assert [line["step"] for line in two] == [line["step"] for line in one] == [10, 20, 30, 40]
    for a, b in zip(two, one, strict=True):
        tolerance = 0.02 if "bfloat16" in name else 1e-6 if name == "ddp muon" else 1e-9
        assert a["bits_per_character"] == pytest.approx(b["bits_per_character"], rel=tolerance)


@pytest.mark.slow
def test_losses_of_layers_end_during_training(ranks):
    lines = [line for line in read_metrics(ranks[0] / "ddp sgd" / "metrics.jsonl") if "terms" in line]
    assert [len(lines[at]["terms"]) for at in (0, 12, -1)] == [6, 4, 2]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARDED)
def test_each_rank_writes_its_own_shards(ranks, name):
    newest = list_checkpoints(ranks[0] / name / "checkpoints")[-1]
    assert sorted(path.name for path in newest.iterdir()) == [
        "shard-00001-model-00001-of-00001.safetensors", "shard-00002-model-00001-of-00001.safetensors", "state.json",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARDED)
def test_one_process_restores_a_checkpoint_of_two_ranks_bitwise(ranks, name, tmp_path):
    shutil.copytree(ranks[0] / name / "checkpoints", tmp_path / "checkpoints")
    trainer = work.trainer_of(name)
    trainer.restore(load_newest(tmp_path / "checkpoints"))
    work.save_weights_and_logits(trainer, tmp_path / "restored.safetensors")
    restored, expected = load_file(tmp_path / "restored.safetensors"), tensors(ranks, name)[0]
    for key in expected:
        assert torch.equal(restored[key], expected[key]), key
    assert trainer.counters.step == work.STEPS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp adamw", "ddp adamw"])
def test_two_ranks_restore_a_checkpoint_of_one_process_bitwise(ranks, name, tmp_path):
    shutil.copytree(ranks[1] / name, tmp_path / name)
    errors = work.run_processes([["restore", str(rank), str(tmp_path)] for rank in range(work.WORLD_SIZE)])
    assert not errors, errors
    restored, expected = load_file(tmp_path / name / "restored.safetensors"), tensors(ranks, name)[1]
    for key in expected:
        assert torch.equal(expected[key], restored[key]), key


@pytest.mark.slow
def test_a_malicious_pickle_in_a_checkpoint_is_never_read(ranks, tmp_path):
    """The default format of torch.distributed.checkpoint has its metadata in this file, and would unpickle it."""
    shutil.copytree(ranks[0] / "fsdp sgd" / "checkpoints", tmp_path / "checkpoints")
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    marker = tmp_path / "splayer"
    code = f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode()
    pickle.loads(code)
    assert marker.exists()  # unpickling runs the command
    marker.unlink()
    (newest / ".metadata").write_bytes(code)
    notes = []
    assert load_newest(tmp_path / "checkpoints", notes.append) is not None
    assert not marker.exists()
    assert ".metadata does not belong there" in notes[0]


@pytest.mark.slow
def test_unexpected_and_missing_shards_are_refused_by_name(ranks, tmp_path):
    shutil.copytree(ranks[0] / "fsdp sgd" / "checkpoints", tmp_path / "checkpoints")
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    first = newest / "shard-00001-model-00001-of-00001.safetensors"
    notes = []
    shutil.copy(first, newest / "shard-00003-model-00001-of-00001.safetensors")
    assert load_newest(tmp_path / "checkpoints", notes.append).state["clock"]["step"] == work.STEPS // 2
    (newest / "shard-00003-model-00001-of-00001.safetensors").unlink()
    first.unlink()
    assert load_newest(tmp_path / "checkpoints", notes.append).state["clock"]["step"] == work.STEPS // 2
    assert "shard-00003" in notes[0] and "shard-00001" in notes[1]


@pytest.mark.parametrize(
    "fields, model, reason",
    [
        ({"batch": 3}, {}, "make it a multiple of 2"),
        ({"parallel": "fsdp"}, {}, "Muon needs whole ones; use training.parallel ddp"),
        ({"parallel": "fsdp", **work.ADAMW}, {"ngrams": 4, "ngram_rows": 64}, "embeddings of n-grams"),
        ({}, {"ngrams": 4, "ngram_rows": 64}, "embeddings of n-grams"),
    ],
)
def test_settings_that_do_not_support_several_processes_are_refused(prose, monkeypatch, fields, model, reason):
    monkeypatch.setattr("charladder.training.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("charladder.training.distributed.world_size", lambda: 2)
    with pytest.raises(UserError, match=reason):
        make_trainer(prose, small(**model), **fields)


def test_ranks_take_disjoint_windows(prose):
    def windows():
        return Windows(np.frombuffer(prose, np.uint8), (0, len(prose)), 16, 2, 0)

    full, numbers = windows().take(6, 2)
    parts = [windows().take(6, 2, rank, 3) for rank in range(3)]
    assert [*numbers] == [number for _, part in parts for number in part]
    assert full.tolist() == [row for rows, _ in parts for row in rows.tolist()]
