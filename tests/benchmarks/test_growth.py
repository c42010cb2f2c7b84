"""The benchmark of text sizes."""

import json

import pytest

from benchmarks import growth


@pytest.mark.slow
def test_report_has_every_size(capsys):
    sizes = ["100000", "10000000"]
    assert growth.main(["--bytes", *sizes, "--steps", "2", "--repeats", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["ratios"]) == {"first_step_cost", "characters_per_second", "peak_memory_cost"}
    assert list(result["measured"]) == ["100,000 bytes", "10,000,000 bytes"]
    assert all(len(figures["first_step_s"]) == 1 for figures in result["measured"].values())
