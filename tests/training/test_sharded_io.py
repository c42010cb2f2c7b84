"""Pieces of tensors, as several ranks write them and as nobody does."""

import json

import pytest
import torch
from safetensors.torch import save_file

from charladder.training import sharded_io
from charladder.training.checkpoint import is_valid_state


def write(folder, pieces):
    """Files with one piece of `a` each: where it belongs, and what it is."""
    for at, (offsets, tensor) in enumerate(pieces):
        info = offsets if isinstance(offsets, str) else json.dumps({"a": {"saved_offsets": offsets}})
        save_file({"a": tensor}, folder / f"shard-{at}.safetensors", {"DCP_SHARDING_INFO": info})


def test_pieces_make_a_whole(tmp_path):
    whole = torch.arange(12.0).reshape(4, 3)
    write(tmp_path, [([0, 0], whole[:2]), ([2, 0], whole[2:, :2].contiguous()), ([2, 2], whole[2:, 2:].contiguous())])
    assert torch.equal(sharded_io.load(tmp_path)["a"], whole)


@pytest.mark.parametrize(
    "pieces",
    [
        [([0, 0], torch.ones(2, 1)), ([0, 0], torch.ones(1, 2))],  # they lie on one another
        [([2], torch.ones(1)), ([0], torch.ones(1)), ([0], torch.ones(1))],  # as many as a whole, and a gap
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
def test_what_is_no_whole_is_refused(tmp_path, pieces):
    write(tmp_path, pieces)
    with pytest.raises((ValueError, KeyError, TypeError)):
        sharded_io.load(tmp_path)


@pytest.mark.parametrize(
    "pieces",
    [
        [([0], torch.ones(1)), ([2], torch.ones(1))],  # a gap
        [([0, 0], torch.ones(2, 1)), ([0, 1], torch.ones(1, 1))],  # a corner is missing
        [([0], torch.ones(2)), ([1], torch.ones(2))],  # they lie on one another
    ],
)
def test_pieces_that_leave_gaps_or_overlap_are_named_before_a_tensor_is_made(tmp_path, pieces):
    write(tmp_path, pieces)
    with pytest.raises(ValueError, match=r"^the pieces of a do not make a whole$"):
        sharded_io.check_shards(tmp_path)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -float("inf"), -1.0, 10**400, True, "1"])
def test_seconds_that_no_run_has_are_refused(seconds):
    state = {"clock": {"step": 1, "characters": 1, "seconds": 1.5}, "sampler": {"examples": 1}}
    assert is_valid_state(state)
    state["clock"]["seconds"] = seconds
    assert not is_valid_state(state)
