"""The benchmark of the service, with a small network: its report, and that disconnected clients leak nothing."""

import json
import statistics
from pathlib import Path

import pytest
import torch
from benchmarks.serving import main

from charladder.cli.main import main as charladder
from charladder.run import open_run


@pytest.mark.slow
def test_report_and_memory(tmp_path, text_file, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tiny = ["--layers", "3", "--width", "32", "--context", "64", "--batch", "2", "--steps", "3"]
    assert charladder(["train", str(text_file), *tiny, "--run", "run"]) == 0
    capsys.readouterr()
    arguments = ["--seconds", "1", "--rounds", "3", "--vanishing", "500", "--precision", "float32"]
    for _ in range(2):
        assert main(["--run", "run", *arguments, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        measured = result["measured"]["float32"]
        if measured["memory_after"] - measured["memory_before"] < 8 << 20:
            break  # the number of simultaneous connections varies; a leak would be seen twice
    assert measured["errors"] == 0 and measured["texts"] >= 64 and measured["crowd"][0] > 0
    assert measured["left"]["active"] == measured["left"]["waiting"] == 0
    assert measured["memory_after"] - measured["memory_before"] < 8 << 20
    assert measured["first_character_99th_s"] >= measured["first_character_median_s"] > 0
    ratios = [crowd / (sum(measured["one"][2 * n : 2 * n + 2]) / 2) for n, crowd in enumerate(measured["crowd"])]
    network = open_run(Path("run")).load_network()
    matrices = sum(m.weight.numel() for m in network.modules() if isinstance(m, torch.nn.Linear))
    cached = 3 * 2 * 32 * 64  # layers, keys and values, width, and the whole context
    of_products = 2 * (matrices + cached) * statistics.median(measured["crowd"]) / measured["products"]
    assert result["ratios"]["float32_crowd_of_products"] == pytest.approx(of_products)
    assert result["ratios"]["float32_crowd_over_one"] == statistics.median(ratios) and len(ratios) == 3
