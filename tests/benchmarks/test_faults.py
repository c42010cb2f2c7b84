"""The fault injection scripts, with few repetitions: no data is lost, and lost data would be reported."""

import json

import pytest

from benchmarks import faults


@pytest.mark.parametrize("script", [pytest.param(one, marks=pytest.mark.slow) for one in ("fuzz", "damage", "kills")])
def test_no_data_is_lost(script, capsys):
    assert faults.main([script, "--quick", "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["measured"][script]
    assert not any(value for name, value in counts.items() if name.startswith("LOST"))
    count_names = {"damage": "flipped", "kills": "runs", "fuzz": "inputs"}
    assert counts[count_names[script]] >= 6


@pytest.mark.slow
def test_soak_reports_steps_and_files(capsys):
    assert faults.main(["soak", "--quick", "--json"]) in (0, 1)  # the run is too short to judge memory
    counts = json.loads(capsys.readouterr().out)["measured"]["soak"]
    assert counts["steps"] > 10
    assert counts["LOST: file descriptors"] == 0


@pytest.mark.slow
def test_unnoticed_damage_is_counted(monkeypatch, capsys):
    """Without checksums, damage is not noticed."""
    monkeypatch.setattr("charladder.training.checkpoint.file_digest", lambda path: "same")
    assert faults.main(["damage", "--flips", "3", "--cuts", "0", "--json"]) == 1
    counts = json.loads(capsys.readouterr().out)["measured"]["damage"]
    assert counts["LOST: damage that was not noticed"] > 0
