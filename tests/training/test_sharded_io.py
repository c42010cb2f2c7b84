"""Files of sharded tensors: valid ones are read, and shards with gaps, overlaps or invalid metadata are refused."""

import json

import pytest
import torch
from safetensors.torch import save_file

from charladder.training import sharded_io
from charladder.training.checkpoint import is_valid_state


def write(folder, shards):
    """Writes a file for each shard of the tensor `a`, with its offsets (or a text in place of the metadata)."""
    for at, (offsets, tensor) in enumerate(shards):
        info = offsets if isinstance(offsets, str) else json.dumps({"a": {"saved_offsets": offsets}})
        save_file({"a": tensor}, folder / f"shard-{at}.safetensors", {"DCP_SHARDING_INFO": info})


def test_shards_are_read_as_a_full_tensor(tmp_path):
    full = torch.arange(12.0).reshape(4, 3)
    write(tmp_path, [([0, 0], full[:2]), ([2, 0], full[2:, :2].contiguous()), ([2, 2], full[2:, 2:].contiguous())])
    assert torch.equal(sharded_io.load(tmp_path)["a"], full)


@pytest.mark.parametrize(
    "shards",
    [
        [([0, 0], torch.ones(2, 1)), ([0, 0], torch.ones(1, 2))],  # they overlap
        [([2], torch.ones(1)), ([0], torch.ones(1)), ([0], torch.ones(1))],  # the right number of elements, and a gap
        [([0], torch.ones(2)), ([1 << 40], torch.ones(2))],
        [([0], torch.ones(2)), ([2], torch.ones(2).double())],
        [([-1], torch.ones(2))],
        [([0, 0], torch.ones(2))],
        [([1.5], torch.ones(2))],
        [([0], torch.ones(2, dtype=torch.int64))],
        [("[" * 100_000, torch.ones(2))],
        [("{}", torch.ones(2))],
        [("[]", torch.ones(2))],
    ],
)
def test_invalid_shards_are_refused(tmp_path, shards):
    write(tmp_path, shards)
    with pytest.raises((ValueError, KeyError, TypeError)):
        sharded_io.load(tmp_path)


@pytest.mark.parametrize(
    "shards",
    [
        [([0], torch.ones(1)), ([2], torch.ones(1))],  # a gap
        [([0, 0], torch.ones(2, 1)), ([0, 1], torch.ones(1, 1))],  # a corner is missing
        [([0], torch.ones(2)), ([1], torch.ones(2))],  # they overlap
    ],
)
def test_gaps_and_overlaps_are_refused_before_memory_is_allocated(tmp_path, shards):
    write(tmp_path, shards)
    with pytest.raises(ValueError, match=r"^the shards of a have gaps or overlap$"):
        sharded_io.check_shards(tmp_path)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -float("inf"), -1.0, 10**400, True, "1"])
def test_a_state_with_invalid_seconds_is_refused(seconds):
    state = {"clock": {"step": 1, "characters": 1, "seconds": 1.5}, "sampler": {"examples": 1}}
    assert is_valid_state(state)
    state["clock"]["seconds"] = seconds
    assert not is_valid_state(state)
