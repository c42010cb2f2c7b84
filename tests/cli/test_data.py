"""Training texts on the command line: standard input, URLs, several files, folders, alphabets and encodings."""

import json
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from charladder.cli.main import main
from charladder.run import open_run
from charladder.training import Trainer
from helpers import assert_same_tensors
from web_server import serving

TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "2"]
TEXT = "a ladder has layers, größer und kleiner. " * 200


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_shell(command: str, **settings) -> subprocess.CompletedProcess:
    command = command.replace("charladder", f"{shlex.quote(sys.executable)} -m charladder", 1)
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, timeout=120, check=False, **settings
    )


def run_charladder(*arguments: str, **settings) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "charladder", *arguments], capture_output=True, timeout=120, check=False, **settings
    )


@pytest.mark.slow
def test_run_trained_on_standard_input_resumes_without_it(capsys):
    assert run_charladder("train", "-", *TINY, "--run", "one", input=TEXT.encode()).returncode == 0
    assert main(["train", "--resume", "one", "--extend", "--steps", "4"]) == 0
    assert main(["evaluate", "one"]) == 0
    done = run_charladder("evaluate", "one", "-", "--limit", "50", "--json", input=b"another text of a ladder")
    assert json.loads(done.stdout)["characters"] == 24
    assert run_charladder("train", "-", *TINY, "--run", "two", input=b"").returncode == 2


@pytest.mark.slow
def test_train_on_a_process_substitution():
    done = run_shell("charladder train <(printf 'a ladder%.0s' {1..300}) " + " ".join([*TINY, "--run", "one"]))
    assert done.returncode == 0, done.stderr
    assert main(["evaluate", "one"]) == 0


@pytest.mark.slow
def test_train_on_a_url(capsys):
    with serving(TEXT.encode()) as server:
        assert main(["train", f"{server.address}/book.txt", *TINY, "--run", "one"]) == 0
    assert main(["train", "--resume", "one", "--extend", "--steps", "3"]) == 0


@pytest.mark.slow
def test_train_on_several_files_with_boundaries(capsys):
    for name in ("a b.txt", "-x.txt", "c.txt"):
        Path(name).write_text(TEXT)
    Path("b.txt").write_text("short")
    assert main(["train", *TINY, "--run", "one", "--boundaries", "keep", "--", "a b.txt", "-x.txt", "c.txt"]) == 0
    assert "3 files" in capsys.readouterr().out
    assert main(["train", *TINY, "--boundaries", "keep", "b.txt", "c.txt"]) == 0
    assert "note: 5 characters are in files shorter than a window" in capsys.readouterr().out
    config = tomllib.loads(Path("one/config.toml").read_text())
    assert [Path(name).name for name in config["text"]["data"]] == ["a b.txt", "-x.txt", "c.txt"]
    assert (config["text"]["files"], config["text"]["boundaries"]) == (3, "keep")
    assert main(["evaluate", "one", "--split", "test"]) == 0
    assert main(["evaluate", "one", "./-x.txt", "c.txt", "--limit", "100"]) == 0
    capsys.readouterr()
    Path("c.txt").write_text(TEXT[:100])
    Path("d.txt").write_text(TEXT[100:])
    config = Path("one/config.toml")
    before = config.read_text()
    config.write_text(before.replace("c.txt", "[cd].txt"))
    assert main(["train", "--resume", "one"]) == 0, "the pattern is not opened; the text in the cache has 3 files"
    data_arguments = [word for name in ("a b.txt", "./-x.txt", "[cd].txt") for word in ("--data", name)]
    assert main(["train", "--resume", "one", *data_arguments]) == 2
    assert "has 4 files now and had 3" in capsys.readouterr().err


def test_train_on_a_folder_that_contains_the_run(capsys):
    Path("book.txt").write_text(TEXT)
    assert main(["train", ".", *TINY]) == 0
    assert main(["evaluate", "runs/ladder-1"]) == 0
    assert main(["train", ".", *TINY]) == 0
    one, two = (open_run(Path(f"runs/ladder-{n}")).recipe.text.sha256 for n in (1, 2))
    assert one == two


def test_characters_outside_the_alphabet(capsys):
    Path("book.txt").write_text(TEXT)
    Path("other.txt").write_text("A Ladder! " * 10)
    assert main(["train", "book.txt", *TINY, "--run", "strict", "--alphabet", "unicode"]) == 0
    assert main(["train", "book.txt", *TINY, "--run", "lax", "--alphabet", "letters", "--unknown", "replace"]) == 0
    assert main(["train", "book.txt", *TINY, "--run", "few", "--alphabet", "text8", "--unknown", "drop"]) == 0
    out = capsys.readouterr()
    assert "(letters of 27)" in out.out
    assert "note: 800 letters of" in out.err
    assert open_run(Path("lax")).alphabet.size == open_run(Path("strict")).alphabet.size + 1
    assert main(["evaluate", "strict", "other.txt"]) == 2
    assert "'A' at byte 0" in capsys.readouterr().err
    for run, arguments, count in (("strict", ["--unknown", "drop"], 70), ("lax", [], 100), ("few", [], 70)):
        assert main(["evaluate", run, "other.txt", *arguments, "--json"]) == 0
        captured = capsys.readouterr()
        assert json.loads(captured.out)["characters"] == count
        assert "note: 30 letters" in captured.err
    assert main(["generate", "lax", "--prompt", "A ladder", "--length", "5"]) == 0
    assert main(["generate", "strict", "--prompt", "A ladder", "--length", "5", "--unknown", "drop"]) == 0
    assert main(["generate", "strict", "--prompt", "A ladder", "--length", "5"]) == 2


def test_encoding_is_saved_with_the_run(capsys):
    Path("book.txt").write_bytes(TEXT.encode("latin-1"))
    assert main(["train", "book.txt", *TINY, "--run", "one", "--encoding", "latin-1"]) == 0
    assert main(["train", "--resume", "one", "--extend", "--steps", "3"]) == 0
    assert main(["evaluate", "one", "book.txt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["characters"] == len(TEXT.encode())


@pytest.mark.slow
def test_text_is_truncated_and_deleted_during_training(workdir):
    Path("book.txt").write_text(TEXT)
    arguments = [*TINY[:-2], "--steps", "400", "--valid", "100", "--test", "100", "--training.log-every", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "charladder", "train", "book.txt", *arguments, "--run", "one"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    while not Path("one/metrics.jsonl").exists():
        assert process.poll() is None
    os.truncate("book.txt", 0)
    Path("book.txt").unlink()
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out


@pytest.mark.parametrize("validations", [0, pytest.param(5, marks=pytest.mark.slow)])
def test_cached_text_truncated_during_training_keeps_the_checkpoint(monkeypatch, capsys, validations):
    Path("text").write_text(TEXT * 20)
    arguments = ["text", *TINY, "--steps", "6", "--training.validations", f"{validations}"]
    arguments += ["--training.checkpoint-seconds", "1e-9"]
    step = Trainer.step

    def step_and_truncate(trainer):
        facts = step(trainer)
        if trainer.counters.step == 3:
            os.truncate(trainer.windows.ids_N.filename, 1000)
        return facts

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step_and_truncate)
        assert main(["train", *arguments, "--run", "one"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    newest = 2 if validations else 3
    assert f"truncated by another program; the last good checkpoint, one/checkpoints/{newest}, is kept" in error
    assert "; continue with charladder train --resume one, and the text is converted again" in error
    assert main(["train", "--resume", "one"]) == 0
    assert main(["train", *arguments, "--run", "two"]) == 0
    assert_same_tensors(Path("one/model.safetensors"), Path("two/model.safetensors"))
