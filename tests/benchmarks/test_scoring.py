"""The benchmark of scoring."""

import json

import pytest

from benchmarks import scoring


@pytest.mark.slow
def test_report_has_every_size(capsys):
    assert scoring.main(["--bytes", "5000", "20000", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["ratios"]) == {"peak_memory_cost", "characters_per_second_of_evaluate"}
    assert list(result["measured"]) == ["5,000 bytes", "20,000 bytes", "evaluate"]
    assert result["measured"]["5,000 bytes"]["characters"] == result["measured"]["evaluate"]["characters"]
