"""docs/export.md: its commands and its program run."""

import json
import re
import shlex
from pathlib import Path

import pytest

from charladder.cli.main import main
from docs.page_code import DOCS

PAGE = (DOCS / "export.md").read_text()


@pytest.mark.slow
def test_commands_and_program_of_the_page(tmp_path, text_file, monkeypatch, capsys):
    pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    monkeypatch.chdir(tmp_path)
    tiny = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "4", "--steps", "3"]
    assert main(["train", str(text_file), *tiny, "--run", "runs/ladder-1"]) == 0
    for name in ("held-out.txt", "more.txt"):
        Path(name).write_bytes(text_file.read_bytes())
    blocks = re.findall(r"```(bash|python)\n(.*?)```", PAGE, re.DOTALL)
    assert [language for language, _ in blocks] == ["bash", "python", "bash", "python", "bash"]
    for language, code in blocks:
        if language == "python":
            exec(code, {})
            continue
        for line in code.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            assert program in ("charladder", "llama-server")
            assert program == "llama-server" or main(arguments) == 0, line
    assert Path("runs/more/model.safetensors").is_file()
    first, tuned = (Path(f"runs/{name}/model.safetensors").read_bytes() for name in ("imported-1", "tuned"))
    assert first != tuned


def test_figures_of_a_model_card_are_those_of_its_commands(tmp_path, text_file, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shape = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "4", "--steps", "24", "--valid", "900"]
    worse = ["--training.decay", "fixed", "--training.optimizer", "adamw", "--training.learning-rate", "2"]
    scored = ["--training.skips", "50", "--training.validation-characters", "200", "--score", "300", "--run", "run"]
    assert main(["train", str(text_file), *shape, *worse, *scored]) == 0
    assert Path("run/best.safetensors").is_file()
    for weights in ("last", "best"):
        assert main(["export", "run", weights, "--to", "hf", "--weights", weights]) == 0
        lines = re.findall(r"^- ([\d.]+) on .*`charladder (.*)`", (tmp_path / weights / "README.md").read_text(), re.M)
        assert lines
        for bits, command in lines:
            capsys.readouterr()
            assert main([*shlex.split(command), "--json"]) == 0
            assert f"{json.loads(capsys.readouterr().out)['bits_per_character']:.4f}" == bits
