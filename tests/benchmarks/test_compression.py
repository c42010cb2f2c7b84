"""The benchmark of compression: sizes and speeds of every program that is installed."""

import json

import pytest
from benchmarks.compression import main

from helpers import PROSE


@pytest.mark.slow
def test_online_and_peers_are_measured(tmp_path, capsys):
    pytest.importorskip("constriction")
    path = tmp_path / "text"
    path.write_text(PROSE[:80])
    assert main([str(path), "--quick", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    measured = result["measured"]["text"]
    assert set(measured) == {"charladder --online", "xz -9e", "zstd -19", "bzip2 -9", "ppmd"}
    smallest = min(measured[name]["bytes"] for name in ("xz -9e", "bzip2 -9", "zstd -19", "ppmd") if measured[name])
    ratio = result["ratios"]["text_charladder --online_over_smallest_peer"]
    assert ratio == measured["charladder --online"]["bytes"] / smallest
