"""Folders of transformers become runs, and folders with another network are refused in one sentence."""

import asyncio
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from charladder.cli.main import main
from charladder.errors import UserError
from charladder.export import import_hugging_face, write_hugging_face
from charladder.run import open_run
from charladder.serving.limits import Limits
from charladder.serving.service import open_service
from charladder.text import Alphabet
from export.networks import varied_network


def write(folder, network, letters="", unknown="error", precision="float32"):
    alphabet = Alphabet(letters)
    write_hugging_face(folder, network.settings, network.state_dict(), alphabet, unknown, precision, "")
    return folder


@pytest.mark.parametrize(
    ("letters", "unknown", "precision", "kind"),
    [
        ("", "error", "float32", "bytes"),
        ("abé日", "drop", "bfloat16", "letters"),
        (" abcdefghijklmnopqrstuvwxyz", "error", "float32", "text8"),
        ("".join(map(chr, range(0x4E00, 0x4E00 + 300))) + "\N{REPLACEMENT CHARACTER}", "replace", "float32", "unicode"),
    ],
)
def test_import_reverses_export(tmp_path, letters, unknown, precision, kind):
    network = varied_network(len(letters) or 256, context=24, rotary_base=5000.0)
    run = import_hugging_face(write(tmp_path / "hf", network, letters, unknown, precision), tmp_path / "run")
    assert open_run(tmp_path / "run") == run
    assert run.recipe.model == network.settings and run.alphabet.letters == letters
    assert (run.recipe.text.alphabet, run.recipe.text.unknown) == (kind, unknown)
    tensors = run.load_network().state_dict()
    for name, tensor in network.state_dict().items():
        assert tensors[name].equal(tensor.to(getattr(torch, precision)).float()), name
    assert len(run.load_objective().heads) == 0
    assert json.loads((tmp_path / "run/environment.json").read_text())["data"]["imported"] == "hf"


def test_import_after_transformers_saved_it(tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = write(tmp_path / "hf", varied_network())
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight += 1
    model.save_pretrained(tmp_path / "tuned")
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "tuned")
    run = import_hugging_face(tmp_path / "tuned", tmp_path / "run")
    assert run.load_network().output.weight.equal(model.lm_head.weight)


def test_imported_run_is_used_and_names_what_needs_its_text(tmp_path, text_file, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "hf", varied_network())
    assert main(["import", "hf"]) == 0
    assert main(["import", "hf", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "next: charladder generate runs/imported-1 --length 400"
    assert json.loads(lines[2]) == {
        "run": "runs/imported-2", "layers": 2, "width": 16, "context": 16, "alphabet": "bytes", "symbols": 256,
    }  # fmt: skip
    assert main(["generate", "runs/imported-1", "--length", "5", "--draft", "ngram", "--json"]) == 0
    assert main(["evaluate", "runs/imported-1", str(text_file), "--limit", "100", "--by-layer", "--json"]) == 0
    service = open_service(open_run(tmp_path / "runs/imported-1"), Limits())
    assert service.tokenizer.encode("a", "text") == [97]
    asyncio.run(service.close())
    assert main(["train", str(text_file), "--from", "runs/imported-1", "--steps", "1", "--run", "more"]) == 0
    capsys.readouterr()
    assert main(["import", "hf", "--run", "runs/imported-1"]) == 2
    message = "runs/imported-1 exists and a run is never overwritten; choose another path (--run)\n"
    assert capsys.readouterr().err == f"charladder: {message}"
    (tmp_path / "-r").symlink_to("runs/imported-1")
    assert main(["plot", "--", "-r"]) == 2
    message = "-r has no curves, because its network was imported; `charladder train DATA --from ./-r` starts"
    assert message in capsys.readouterr().err
    for command in (["evaluate"], ["refit", "--steps", "1"], ["train", "--resume"]):
        assert main([*command, "runs/imported-1"]) == 2
        assert "runs/imported-1 has no text, because its network was imported" in capsys.readouterr().err


def edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in {**content, **changes}.items() if value != "remove"}))


def test_other_folders_are_refused(tmp_path):
    network = varied_network()

    def refused(message: str, name: str = "hf") -> None:
        with pytest.raises(UserError, match=message):
            import_hugging_face(tmp_path / name, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    refused("there is no folder", "none")
    folder = write(tmp_path / "hf", network)
    config, tokenizer, weights = folder / "config.json", folder / "tokenizer.json", folder / "model.safetensors"
    good = {path: path.read_bytes() for path in (config, tokenizer, weights)}
    model = json.loads(good[tokenizer])["model"]
    for path, changes, message in (
        (config, {"model_type": "llama"}, "model_type 'llama'; only qwen3"),
        (config, {"hidden_size": "16"}, "hidden_size = '16'; it must be a whole number"),
        (config, {"num_hidden_layers": 0}, "model.layers is 0"),
        (config, {"num_key_value_heads": 1}, "num_key_value_heads = 1; only"),
        (config, {"head_dim": "remove"}, "head_dim = 128; only a network with 8"),
        (config, {"tie_word_embeddings": True}, "tie_word_embeddings = True"),
        (config, {"rms_norm_eps": 1e-5}, "rms_norm_eps"),
        (config, {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "only plain rotary positions"),
        (config, {"num_hidden_layers": 3}, r"has no tensor .model\.layers\.2\..*, which config.json describes; it is"),
        (config, {"intermediate_size": 32}, "with the shape .*, and config.json describes"),
        (config, {"vocab_size": 257}, "has 256 tokens, and config.json a vocab_size of 257"),
        (tokenizer, {"normalizer": {"type": "NFC"}}, "is not a tokenizer with one token for each byte or letter"),
        (tokenizer, {"added_tokens": [{"id": 256, "content": "<pad>"}]}, "is not a tokenizer"),
        (tokenizer, {"pre_tokenizer": {"type": "Whitespace"}}, "is not a tokenizer"),
        (tokenizer, {"model": {"type": "BPE"}}, "is not a tokenizer"),
        (tokenizer, {"model": {**model, "vocab": {"!!": 0, **model["vocab"]}}}, "is not a tokenizer"),  # an id twice
    ):
        edit(path, **changes)
        refused(message)
        path.write_bytes(good[path])
    config.write_text("[" * 100_000)
    refused("is not valid JSON")
    config.write_bytes(good[config])
    tokenizer.unlink()
    refused("has no tokenizer.json; copy it from the folder that")
    tokenizer.write_bytes(good[tokenizer])
    weights.write_bytes(good[weights][:-1] + b"\xff")
    refused("damaged")
    weights.write_bytes(b"\xff" * 40)
    refused("cannot be read as safetensors")
    tensors = load_file(write(tmp_path / "2", network) / weights.name)
    save_file({**tensors, "x" * 1000: torch.ones(1)}, weights)
    refused(r"has the tensor 'x{59}\.\.\., which a network as in config.json does not have; it is another")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].double()
    save_file(tensors, weights)
    refused("has 'model.norm.weight' as F64")
    tensors["model.norm.weight"] = torch.full((16,), float("nan"))
    save_file(tensors, weights)
    refused("numbers that are not finite")
    weights.unlink()
    (folder / "model.safetensors.index.json").write_text("{}")
    refused("has its weights in several files")


def test_hostile_folders_are_refused(tmp_path):
    def refused(folder, message: str) -> None:
        with pytest.raises(UserError, match=message) as error:
            import_hugging_face(folder, tmp_path / "run")
        assert len(str(error.value)) < 600 and not (tmp_path / "run").exists()

    folder = write(tmp_path / "hf", varied_network())
    config, weights = folder / "config.json", folder / "model.safetensors"
    good = config.read_bytes()
    for changes, message in (
        ({"rope_parameters": {"rope_theta": 10**400}}, "rope_theta = 1000.*; it must be above 1 and below"),
        ({"rope_parameters": {"rope_theta": float("nan")}}, "rope_theta = nan; it must be above 1"),
        ({"hidden_size": 10**4000}, "it must be a whole number below"),
        ({"hidden_act": "x" * 10**6}, "hidden_act = 'xxx"),
        ({"num_hidden_layers": 4096}, "has 25 tensors, and config.json describes 4096 layers"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types other than full_attention"),
    ):
        edit(config, **changes)
        refused(folder, message)
        config.write_bytes(good)
    edit(config, layer_types=["full_attention"] * 2)
    import_hugging_face(folder, tmp_path / "fine")
    weights.unlink()
    os.mkfifo(weights)
    refused(folder, "model.safetensors is not a regular file")


@pytest.mark.parametrize("letters", ["", "abc"])
def test_tokenizers_that_would_change_the_text_are_refused(tmp_path, letters):
    """Only one token for each symbol, and decoding that reverses it, is what an alphabet does."""
    unknown = "drop" if letters else "error"
    folder = write(tmp_path / "hf", varied_network(len(letters) or 256), letters, unknown)
    path = folder / "tokenizer.json"
    good = json.loads(path.read_text())
    template = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {}}
    for changes in (
        {"model": {**good["model"], "vocab": {}}, "pre_tokenizer": None},
        {"model": {**good["model"], "unk_token": "a"}},
        {"model": {**good["model"], "unk_token": "\N{REPLACEMENT CHARACTER}"}},
        {"model": {**good["model"], "type": "WordLevel"}},
        {"model": {**good["model"], "end_of_word_suffix": "</w>"}},
        {"model": {**good["model"], "byte_fallback": True}},
        {"post_processor": {**template, "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}},
        {"decoder": {"type": "Strip", "content": " ", "start": 1, "stop": 0}},
        {"decoder": None},
    ):
        if not letters and "\N{REPLACEMENT CHARACTER}" in str(changes):
            continue  # bytes have no unknown symbols
        path.write_text(json.dumps({**good, **changes}))
        with pytest.raises(UserError, match="is not a tokenizer with one token for each byte or letter"):
            import_hugging_face(folder, tmp_path / "run")
    path.write_text(json.dumps({**good, "post_processor": template}))  # as transformers saves it
    assert import_hugging_face(folder, tmp_path / "run").recipe.text.unknown == unknown
