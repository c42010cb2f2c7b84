"""The benchmark of exports."""

import json

import pytest

from benchmarks import exports
from charladder.cli.main import main


@pytest.mark.slow
def test_report(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("the quick brown fox. " * 1000)
    shape = ["--layers", "2", "--width", "16", "--context", "80", "--batch", "4", "--steps", "3"]
    assert main(["train", "text", *shape, "--run", "run"]) == 0
    capsys.readouterr()
    assert exports.main(["--run", "run", "--quick", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["measured"]
    for precision in ("float32", "bfloat16"):
        assert measured[precision]["positions"] >= 100
        assert measured[precision]["transformers to ours"] < 1e-5
        assert measured[precision]["transformers: equal"] == 1 and measured[precision]["transformers: text to ids"]
