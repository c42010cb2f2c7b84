"""Data that only config.toml names is not opened, because another user may have written the run directory."""

import json
import os
import shutil
import tomllib
from pathlib import Path

import pytest
import tomli_w

from caches import new_cache
from charladder import run as run_module
from charladder.cli.main import main
from charladder.run import open_run
from charladder.text import cache_folder
from charladder.text import corpus as corpus_module
from charladder.training import memory
from charladder.training.memory import context_bytes

TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "3", "--json"]
TEXT = "a ladder has layers, each above the one before. " * 300
COMMANDS = (
    ["evaluate", "run"],
    ["refit", "run", "--steps", "1"],
    ["train", "--resume", "run", "--extend", "--steps", "4"],
)


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHARLADDER_CACHE", new_cache(tmp_path / "cache"))
    Path("text").write_text(TEXT)
    return tmp_path


def set_data(*data: str) -> None:
    """Writes into the run's config.toml that its text came from `data`, and deletes the cache."""
    config = Path("run/config.toml")
    fields = tomllib.loads(config.read_text())
    fields["text"]["data"] = list(data)
    config.write_text(tomli_w.dumps(fields))
    shutil.rmtree(cache_folder(), ignore_errors=True)


def cached_texts() -> list[str]:
    """The texts in the cache, whole or in part."""
    return [file.name for file in cache_folder().rglob("*") if file.suffix in {".bytes", ".part"}]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (["http://localhost:9/text"], "http://localhost:9/text is a URL, which is not downloaded automatically"),
        (["folder"], "folder is a folder, which is not copied automatically"),
        pytest.param(
            ["folder/*"], "folder/* is a pattern of files, which are not copied automatically", marks=pytest.mark.slow
        ),
        (["pipe"], "pipe is not a regular file"),
        pytest.param(["/dev/zero"], "/dev/zero is not a regular file", marks=pytest.mark.slow),
        pytest.param(["text.gz"], "text.gz is an archive, which is not unpacked automatically", marks=pytest.mark.slow),
        pytest.param(
            ["text8"], "text8 is not in the cache, and is not downloaded automatically", marks=pytest.mark.slow
        ),
        pytest.param(["text", "-"], "- cannot be read again", marks=pytest.mark.slow),
    ],
)
def test_data_named_only_by_the_run_is_not_opened(workdir, capsys, monkeypatch, data, reason):
    assert main(["train", "text", *TINY, "--run", "run"]) == 0
    Path("folder").mkdir()
    Path("folder/secret").write_text("secret")
    Path("text.gz").write_bytes(b"\x1f\x8b")
    os.mkfifo("pipe")

    def fail(*_args, **_options):
        raise AssertionError("data was opened")

    monkeypatch.setattr(corpus_module, "download", fail)
    for arguments in COMMANDS:
        set_data(*data)
        capsys.readouterr()
        assert main(arguments) == 2
        err = capsys.readouterr().err
        assert reason in err
        assert "if you trust what run names, give it as the data, else give its path (--data)" in err
        assert not cached_texts()
        if arguments[0] == "evaluate":
            assert main([*arguments, "--data", "text"]) == 0
            assert main(arguments) == 0, "it is in the cache now, under its SHA-256"


def test_drafts_without_the_training_text(workdir, capsys):
    assert main(["train", "text", *TINY, "--run", "run"]) == 0
    set_data("http://localhost:9/text")
    capsys.readouterr()
    assert main(["generate", "run", "--prompt", "a ", "--length", "5", "--draft", "ngram"]) == 0
    err = capsys.readouterr().err
    assert "is a URL, which is not downloaded automatically" in err
    assert "drafts are copied from the generated text only" in err


def test_file_is_checked_before_it_is_cached(workdir, capsys):
    assert main(["train", "text", *TINY, "--run", "run"]) == 0
    Path("secret").write_text("S" * len(TEXT))
    set_data(str(workdir / "secret"))
    capsys.readouterr()
    assert main(["evaluate", "run"]) == 2
    assert f"{workdir}/secret has changed since run began (SHA-256" in capsys.readouterr().err
    assert not cached_texts()
    Path("other").write_text("longer" + TEXT)
    set_data(str(workdir / "other"))
    assert main(["evaluate", "run"]) == 2
    assert f"has changed since run began ({len(TEXT) + 6:,} bytes now, {len(TEXT):,} then)" in capsys.readouterr().err
    shutil.copy("text", "copy")
    set_data(str(workdir / "copy"))
    assert main(["evaluate", "run"]) == 0


@pytest.mark.parametrize("data", ["folder", pytest.param("folder/*", marks=pytest.mark.slow)])
def test_text_that_was_read_before_needs_no_option(workdir, capsys, data):
    Path("folder").mkdir()
    Path("folder/one").write_text(TEXT)
    Path("folder/two").write_text(TEXT)
    assert main(["train", data, *TINY, "--run", "run"]) == 0
    capsys.readouterr()
    for arguments in (*COMMANDS, ["generate", "run", "--prompt", "a ", "--length", "5", "--draft", "ngram"]):
        assert main(arguments) == 0
        assert "trust" not in capsys.readouterr().err
    for text in cache_folder().glob("texts/*"):
        text.unlink()
    assert main(["evaluate", "run", "--json"]) == 0, "the cache has noted where it came from"
    assert json.loads(capsys.readouterr().out)["bits_per_character"] > 0


def test_files_of_a_run_have_size_limits(workdir, capsys):
    """Sparse files count with the size that they appear to have."""
    assert main(["train", "text", *TINY, "--run", "run"]) == 0
    for name in ("environment.json", "config.toml", "metrics.jsonl"):
        path = Path("run", name)
        content = path.read_bytes()
        with path.open("r+b") as file:
            file.truncate(1 << 40)
        arguments = ["train", "--resume", "run", "--extend", "--steps", "4"] if name == "metrics.jsonl" else COMMANDS[0]
        capsys.readouterr()
        assert main(arguments) == 2
        assert f"run/{name} has 1,099,511,627,776 bytes, and is not read" in capsys.readouterr().err
        path.write_bytes(content)


@pytest.mark.slow
def test_damaged_line_of_metrics_is_reported_once(workdir, capsys):
    pytest.importorskip("matplotlib")
    assert main(["train", "text", *TINY, "--run", "run"]) == 0
    path = Path("run/metrics.jsonl")
    path.write_text("{}\n" + path.read_text())
    note = "note: line 1 of run/metrics.jsonl is damaged, and is left out\n"
    for arguments in (["plot", "run", "--out", "picture.png"], COMMANDS[2]):
        capsys.readouterr()
        assert main(arguments) == 0
        assert capsys.readouterr().err.count(note) == 1


def test_memory_of_the_context_is_checked_before_the_network_is_created(workdir, capsys, monkeypatch):
    assert main(["train", "text", *TINY, "--run", "run"]) == 0
    config = Path("run/config.toml")
    fields = tomllib.loads(config.read_text())
    fields["model"]["context"] = 1 << 24
    del fields["identity"]["sha256"]
    config.write_text(tomli_w.dumps(fields))
    model = open_run(Path("run")).recipe.model
    needed = 4 * (1 << 24) * (2 * 2 * 16 + model.head_size)
    assert context_bytes(model) == needed
    monkeypatch.setattr(memory, "free_and_total_memory", lambda: (needed - 1, needed))

    def fail(*_args, **_options):
        raise AssertionError("the network was created")

    monkeypatch.setattr(run_module, "Transformer", fail)
    for arguments in (["evaluate", "run"], ["generate", "run", "--length", "3"], ["refit", "run", "--steps", "1"]):
        capsys.readouterr()
        assert main(arguments) == 2
        assert "run has a context of 16,777,216 characters, which needs 5.0 GiB of memory" in capsys.readouterr().err
