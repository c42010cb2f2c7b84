"""The generation benchmark and its peers."""

import json

import pytest
import torch
from benchmarks.generation_peers import hugging_face, write_peer

from benchmarks import generation
from charladder.cli.main import main
from generation.drafting import random_network


def test_hugging_face_has_the_same_weights():
    pytest.importorskip("transformers")
    network = random_network(256, context=32)
    (text,) = hugging_face(network, torch.float32)([[1, 2, 3]], 9)
    assert len(text) == 9


def test_gguf_file_has_every_weight(tmp_path):
    gguf = pytest.importorskip("gguf")
    network = random_network(256)
    write_peer(network, tmp_path / "network.gguf", torch.bfloat16)
    tensors = gguf.GGUFReader(tmp_path / "network.gguf").tensors
    assert len(tensors) == len(network.state_dict())
    assert sum(tensor.n_elements for tensor in tensors) == sum(p.numel() for p in network.parameters())


@pytest.mark.slow
def test_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("the quick brown fox. " * 1000)
    shape = ["--layers", "2", "--width", "16", "--context", "80", "--batch", "4", "--steps", "3"]
    assert main(["train", "text", *shape, "--run", "run"]) == 0
    assert main(["refit", "run", "--steps", "2"]) == 0
    capsys.readouterr()
    assert generation.main(["--run", "run", "--quick", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ratios"]["best drafter over none, float32"] > 0
    assert len(result["measured"]["all"]["none float32"]) == 3
    assert result["measured"]["accepted_per_pass"]["targets 4 float32"] >= 1
