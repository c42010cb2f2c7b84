"""A little of every fault, and all of it is found; what the scripts call LOST they can find."""

import json

import pytest

from benchmarks import faults


@pytest.mark.parametrize("script", [pytest.param(one, marks=pytest.mark.slow) for one in ("fuzz", "damage", "kills")])
def test_a_little_of_each(script, capsys):
    assert faults.main([script, "--quick", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["measured"][script]
    assert not any(value for what, value in found.items() if what.startswith("LOST"))
    tried = {"damage": "flipped", "kills": "runs", "fuzz": "inputs"}
    assert found[tried[script]] >= 6


@pytest.mark.slow
def test_half_a_minute_of_training_keeps_its_memory(capsys):
    assert faults.main(["soak", "--quick", "--json"]) in (0, 1)  # so short a run says nothing of memory
    found = json.loads(capsys.readouterr().out)["measured"]["soak"]
    assert found["steps"] > 10
    assert found["LOST: file descriptors"] == 0


@pytest.mark.slow
def test_damage_that_is_not_noticed_is_counted(monkeypatch, capsys):
    """A reader that looks at nothing is caught."""
    monkeypatch.setattr("charladder.training.checkpoint.file_digest", lambda path: "same")
    assert faults.main(["damage", "--flips", "3", "--cuts", "0", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["measured"]["damage"]
    assert found["LOST: damage that was not noticed"] > 0
