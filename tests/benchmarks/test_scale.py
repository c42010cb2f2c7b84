import json

import pytest

from benchmarks import scale


@pytest.mark.slow
def test_scale_measures_both_and_reports(capsys):
    assert scale.main(["--bytes", "100000000", "--steps", "2", "--repeats", "1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts["ratios"]) == {"first_step_cost", "peak_memory_cost", "ten_seconds_over_first_step"}
    assert all(len(figures["first_step_s"]) == 1 for figures in facts["measured"].values())
