"""The benchmark of the service, on a small network and for a moment: its keys, and that the vanished leave nothing."""

import json
import statistics
from pathlib import Path

import pytest
import torch
from benchmarks.serving import main

from charladder.cli.main import main as charladder
from charladder.run import open_run


@pytest.mark.slow
def test_a_moment_of_load(tmp_path, text_file, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tiny = ["--layers", "3", "--width", "32", "--context", "64", "--batch", "2", "--steps", "3"]
    assert charladder(["train", str(text_file), *tiny, "--run", "run"]) == 0
    capsys.readouterr()
    words = ["--seconds", "1", "--rounds", "3", "--vanishing", "500", "--precision", "float32"]
    for _ in range(2):
        assert main(["--run", "run", *words, "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        found = said["measured"]["float32"]
        if found["memory_after"] - found["memory_before"] < 8 << 20:
            break  # how many are there at once is chance; a leak is not
    assert found["errors"] == 0 and found["texts"] >= 64 and found["crowd"][0] > 0
    assert found["left"]["active"] == found["left"]["waiting"] == 0
    assert found["memory_after"] - found["memory_before"] < 8 << 20
    assert found["first_character_99th_s"] >= found["first_character_median_s"] > 0
    of_rounds = [crowd / (sum(found["one"][2 * n : 2 * n + 2]) / 2) for n, crowd in enumerate(found["crowd"])]
    network = open_run(Path("run")).network()
    matrices = sum(m.weight.numel() for m in network.modules() if isinstance(m, torch.nn.Linear))
    looked_at = 3 * 2 * 32 * 64  # layers, keys and values, width, and the whole context
    of_products = 2 * (matrices + looked_at) * statistics.median(found["crowd"]) / found["products"]
    assert said["ratios"]["float32_crowd_of_products"] == pytest.approx(of_products)
    assert said["ratios"]["float32_crowd_over_one"] == statistics.median(of_rounds) and len(of_rounds) == 3
