"""`charladder export`: names, what it prints, and refusals."""

import json
import shlex

import pytest
from safetensors.torch import load_file

from charladder.cli.main import main

TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "2"]


@pytest.fixture
def run(tmp_path, text_file, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(text_file), *TINY, "--run", "run"]) == 0
    capsys.readouterr()
    return tmp_path / "run"


def test_export_writes_beside_the_run_and_never_overwrites(run, prose, capsys):
    assert main(["export", "run", "--to", "hf", "--heads", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    files = ["README.md", "config.json", "heads.safetensors", "model.safetensors", "tokenizer.json"]
    assert result.pop("files") == [*files, "tokenizer_config.json"]
    size = sum(file.stat().st_size for file in (run.parent / "run-hf").iterdir())
    parameters = sum(tensor.numel() for tensor in load_file(run / "model.safetensors").values())
    assert result == {
        "run": "run", "to": "hf", "path": "run-hf", "precision": "float32", "weights": "last",
        "parameters": parameters, "bytes": size,
    }  # fmt: skip
    card = (run.parent / "run-hf/README.md").read_text()
    assert f"`prose.txt`: {len(prose):,} characters in 1 file, SHA-256 `" in card and str(run.parent) not in card
    (line,) = [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"split"' in line][-1:]
    bits = json.loads(line)["bits_per_character"]
    assert f"- {bits:.4f} on the valid part, after 2 steps: `charladder evaluate run --split valid`" in card
    before = {path: path.stat().st_mtime_ns for path in (run.parent / "run-hf").iterdir()}
    assert main(["export", "run", "--to", "hf"]) == 2
    assert capsys.readouterr().err == "charladder: run-hf exists and is not overwritten; choose another name\n"
    assert before == {path: path.stat().st_mtime_ns for path in (run.parent / "run-hf").iterdir()}
    assert main(["export", "run", "new/folder", "--to", "hf", "--precision", "bfloat16"]) == 0
    next_command = capsys.readouterr().out.splitlines()[-1]
    assert next_command == "next: charladder import new/folder  # a run again, also after training elsewhere"


def test_gguf_is_written_beside_the_run(run, capsys):
    pytest.importorskip("gguf")
    assert main(["export", "run", "--to", "gguf"]) == 0
    assert capsys.readouterr().out == "next: llama-server --model run.gguf --cache-type-k f32 --cache-type-v f32\n"
    assert (run.parent / "run.gguf").read_bytes()[:4] == b"GGUF"
    assert not list(run.parent.glob(".*.part"))


def test_the_printed_commands_work_as_they_are(run, capsys):
    for name in ("a b'c", "-dash"):
        assert main(["export", "run", "--to", "hf", "--", name]) == 0
        line = capsys.readouterr().out.splitlines()[-1].removeprefix("next: charladder ")
        assert main([*shlex.split(line, comments=True), "--run", f"from {name}"]) == 0
        line = capsys.readouterr().out.splitlines()[-1].removeprefix("next: charladder ")
        assert main([*shlex.split(line), "--draft", "none"]) == 0
        capsys.readouterr()


def test_a_run_whose_name_is_not_utf8(run, monkeypatch):
    """The name is in the card and in the GGUF file, which hold UTF-8 alone."""
    renamed = run.with_name("run\udcff")
    run.rename(renamed)
    monkeypatch.chdir(renamed)
    assert main(["export", ".", "../hf", "--to", "hf"]) == 0
    assert "# run\N{REPLACEMENT CHARACTER}\n" in (renamed.parent / "hf/README.md").read_text()
    pytest.importorskip("gguf")
    assert main(["export", ".", "../run.gguf", "--to", "gguf"]) == 0
