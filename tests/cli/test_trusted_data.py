"""What a run directory of another person names is not opened unless the user names it."""

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
VERBS = (
    ["evaluate", "run"],
    ["refit", "run", "--steps", "1"],
    ["train", "--resume", "run", "--extend", "--steps", "4"],
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHARLADDER_CACHE", new_cache(tmp_path / "cache"))
    Path("text").write_text(TEXT)
    return tmp_path


def name_data(*data: str) -> None:
    """Writes into the run's config.toml that its text came from `data`, and forgets what the cache knows."""
    config = Path("run/config.toml")
    fields = tomllib.loads(config.read_text())
    fields["text"]["data"] = list(data)
    config.write_text(tomli_w.dumps(fields))
    shutil.rmtree(cache_folder(), ignore_errors=True)


def cached() -> list[str]:
    """The texts in the cache, whole or in part."""
    return [file.name for file in cache_folder().rglob("*") if file.suffix in {".bytes", ".part"}]


@pytest.mark.parametrize(
    ("data", "why"),
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
def test_data_that_only_the_run_names_is_not_opened(here, capsys, monkeypatch, data, why):
    assert main(["train", "text", *TINY, "--run", "run"]) == 0
    Path("folder").mkdir()
    Path("folder/secret").write_text("secret")
    Path("text.gz").write_bytes(b"\x1f\x8b")
    os.mkfifo("pipe")

    def never(*_args, **_options):
        raise AssertionError("nothing is fetched or read")

    monkeypatch.setattr(corpus_module, "download", never)
    for words in VERBS:
        name_data(*data)
        capsys.readouterr()
        assert main(words) == 2
        said = capsys.readouterr().err
        assert why in said
        assert "if you trust what run names, give it as the data, else give its path (--data)" in said
        assert not cached()
        if words[0] == "evaluate":
            assert main([*words, "--data", "text"]) == 0
            assert main(words) == 0, "from here on it is in the cache under its SHA-256"


def test_drafts_do_without_a_training_text_that_is_not_opened(here, capsys):
    assert main(["train", "text", *TINY, "--run", "run"]) == 0
    name_data("http://localhost:9/text")
    capsys.readouterr()
    assert main(["generate", "run", "--prompt", "a ", "--length", "5", "--draft", "ngram"]) == 0
    said = capsys.readouterr().err
    assert "is a URL, which is not downloaded automatically" in said
    assert "drafts are copied from the generated text only" in said


def test_a_plain_file_is_compared_before_anything_of_it_is_kept(here, capsys):
    assert main(["train", "text", *TINY, "--run", "run"]) == 0
    Path("secret").write_text("S" * len(TEXT))
    name_data(str(here / "secret"))
    capsys.readouterr()
    assert main(["evaluate", "run"]) == 2
    assert f"{here}/secret has changed since run began (SHA-256" in capsys.readouterr().err
    assert not cached()
    Path("other").write_text("longer" + TEXT)
    name_data(str(here / "other"))
    assert main(["evaluate", "run"]) == 2
    assert f"has changed since run began ({len(TEXT) + 6:,} bytes now, {len(TEXT):,} then)" in capsys.readouterr().err
    shutil.copy("text", "copy")
    name_data(str(here / "copy"))
    assert main(["evaluate", "run"]) == 0


@pytest.mark.parametrize("data", ["folder", pytest.param("folder/*", marks=pytest.mark.slow)])
def test_what_this_machine_has_read_needs_no_option(here, capsys, data):
    Path("folder").mkdir()
    Path("folder/one").write_text(TEXT)
    Path("folder/two").write_text(TEXT)
    assert main(["train", data, *TINY, "--run", "run"]) == 0
    capsys.readouterr()
    for words in (*VERBS, ["generate", "run", "--prompt", "a ", "--length", "5", "--draft", "ngram"]):
        assert main(words) == 0
        assert "trust" not in capsys.readouterr().err
    for text in cache_folder().glob("texts/*"):
        text.unlink()
    assert main(["evaluate", "run", "--json"]) == 0, "the notes of the cache know that it came from there"
    assert json.loads(capsys.readouterr().out)["bits_per_character"] > 0


def test_files_of_a_run_have_size_limits(here, capsys):
    """Sparse files count with the size that they appear to have."""
    assert main(["train", "text", *TINY, "--run", "run"]) == 0
    for name in ("environment.json", "config.toml", "metrics.jsonl"):
        path = Path("run", name)
        content = path.read_bytes()
        with path.open("r+b") as file:
            file.truncate(1 << 40)
        words = ["train", "--resume", "run", "--extend", "--steps", "4"] if name == "metrics.jsonl" else VERBS[0]
        capsys.readouterr()
        assert main(words) == 2
        assert f"run/{name} has 1,099,511,627,776 bytes, and is not read" in capsys.readouterr().err
        path.write_bytes(content)


@pytest.mark.slow
def test_damaged_lines_of_metrics_are_said_once(here, capsys):
    pytest.importorskip("matplotlib")
    assert main(["train", "text", *TINY, "--run", "run"]) == 0
    path = Path("run/metrics.jsonl")
    path.write_text("{}\n" + path.read_text())
    note = "note: line 1 of run/metrics.jsonl is damaged, and is left out\n"
    for words in (["plot", "run", "--out", "picture.png"], VERBS[2]):
        capsys.readouterr()
        assert main(words) == 0
        assert capsys.readouterr().err.count(note) == 1


def test_the_memory_of_the_context_is_compared_before_the_network_is_made(here, capsys, monkeypatch):
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

    def never(*_args, **_options):
        raise AssertionError("nothing is made")

    monkeypatch.setattr(run_module, "Transformer", never)
    for words in (["evaluate", "run"], ["generate", "run", "--length", "3"], ["refit", "run", "--steps", "1"]):
        capsys.readouterr()
        assert main(words) == 2
        assert "run has a context of 16,777,216 characters, which needs 5.0 GiB of memory" in capsys.readouterr().err
