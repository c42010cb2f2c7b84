import json

import pytest

from benchmarks import growth


@pytest.mark.slow
def test_growth_measures_every_size_and_reports(capsys):
    sizes = ["100000", "100000000"]
    assert growth.main(["--bytes", *sizes, "--steps", "2", "--repeats", "1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts["ratios"]) == {"first_step_cost", "characters_per_second", "peak_memory_cost"}
    assert list(facts["measured"]) == ["100,000 bytes", "100,000,000 bytes"]
    assert all(len(figures["first_step_s"]) == 1 for figures in facts["measured"].values())
