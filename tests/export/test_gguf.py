"""GGUF files: gguf's own reader finds every weight, the settings and a token for each symbol."""

import pytest
import torch

from charladder.atomic_io import FileAppeared
from charladder.export import write_gguf
from charladder.export.gguf_file import gguf_tokens
from charladder.text import Alphabet
from export.networks import varied_network

gguf = pytest.importorskip("gguf")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_file_has_every_weight_and_setting(tmp_path, precision):
    network = varied_network()
    path = tmp_path / "network.gguf"
    write_gguf(path, network.settings, network.state_dict(), Alphabet(), precision, "name")
    assert list(tmp_path.iterdir()) == [path]
    reader = gguf.GGUFReader(path)
    found = {one.name: one for one in reader.tensors}
    assert len(found) == len(network.state_dict())
    block = network.blocks[1]
    for name, tensor in (
        ("token_embd", network.embedding.weight),
        ("output", network.output.weight),
        ("output_norm", network.norm.weight),
        ("blk.1.attn_q", block.attention.query.weight),
        ("blk.1.attn_k_norm", block.attention.key_norm.weight),
        ("blk.1.ffn_norm", block.feed_forward_norm.weight),
        ("blk.1.ffn_gate", block.feed_forward.gate.weight),
        ("blk.1.ffn_down", block.feed_forward.down.weight),
    ):
        one = found[f"{name}.weight"]
        is_half = precision == "bfloat16" and tensor.ndim == 2
        assert one.tensor_type.name == ("BF16" if is_half else "F32")
        values = torch.from_numpy(gguf.dequantize(one.data, one.tensor_type).copy())
        assert values.equal(tensor.detach().to(getattr(torch, precision)).float()), name
    settings = {name: field.contents() for name, field in reader.fields.items()}
    expected = {"embedding_length": 16, "block_count": 2, "attention.head_count_kv": 2, "attention.key_length": 8}
    assert settings["general.architecture"] == "qwen3" and settings["tokenizer.ggml.model"] == "rwkv"
    assert {name: settings[f"qwen3.{name}"] for name in expected} == expected
    assert settings["qwen3.rope.freq_base"] == 10000.0
    assert settings["tokenizer.ggml.tokens"][0x41] == "\\x41" and len(settings["tokenizer.ggml.tokens"]) == 256
    assert set(settings["tokenizer.ggml.token_type"]) == {gguf.TokenType.NORMAL}


def test_token_of_a_letter_is_its_utf_8():
    assert gguf_tokens(Alphabet('aé\n"日')) == ["\\x61", "\\xc3\\xa9", "\\x0a", "\\x22", "\\xe6\\x97\\xa5"]


def test_a_file_that_appears_meanwhile_stays(tmp_path, monkeypatch):
    network, path = varied_network(), tmp_path / "network.gguf"

    def appear(alphabet):
        path.write_text("mine")
        return gguf_tokens(alphabet)

    monkeypatch.setattr("charladder.export.gguf_file.gguf_tokens", appear)
    with pytest.raises(FileAppeared, match=r"the new file is .*network-2\.gguf"):
        write_gguf(path, network.settings, network.state_dict(), Alphabet(), "float32", "name")
    assert path.read_text() == "mine" and gguf.GGUFReader(tmp_path / "network-2.gguf").tensors
