"""Pruning of the cache: what it removes, and what it must not."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from charladder.atomic_io import atomic_write
from charladder.cli.main import main
from charladder.errors import UserError
from charladder.text import open_corpus, prune
from charladder.text.cache import SECONDS_PER_DAY, cache_folder
from charladder.text.cache_locks import exclusive_cache_lock, shared_cache_lock
from charladder.text.download import download_path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks of a Unix")
TEXT = "The ladder leans on the wall. "


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHARLADDER_CACHE", str(tmp_path / "cache"))
    for name in ("old", "new"):
        Path(name).write_text(TEXT * (20 if name == "old" else 30))
        open_corpus(name)
    open_corpus("old", "letters")
    aged("old")
    return tmp_path


def files(name: str) -> list[Path]:
    """What the cache has of a text."""
    note = next(note for note in notes() if note["names"] == [name])
    return sorted((cache_folder() / "texts").glob(f"{note['sha256']}*"))


def notes() -> list[dict]:
    return [json.loads(path.read_text())["value"] for path in (cache_folder() / "sources").glob("*.json")]


def aged(name: str, days: float = 40) -> None:
    for path in files(name):
        os.utime(path, (time.time() - days * SECONDS_PER_DAY,) * 2)


def cached() -> set[str]:
    return {str(path.relative_to(cache_folder())) for path in cache_folder().rglob("*") if path.is_file()}


def test_unused_text_is_removed_with_its_derived_files():
    old, new, before = files("old"), files("new"), cached()
    size = sum(path.stat().st_size for path in old)
    assert {path.suffix for path in old} == {".bytes", ".ids", ".json", ".used"}
    found = {item.name: item for item in prune(30, dry_run=True)}
    assert (found["old"].kept_because, found["old"].bytes, set(found["old"].files)) == (None, size, set(old))
    assert found["new"].kept_because == "it was used less than 30 days ago"
    assert cached() == before
    assert {item.name: item for item in prune(30)} == found
    assert not any(path.exists() for path in old) and all(path.exists() for path in new)
    assert [note["names"] for note in notes()] == [["new"]]
    assert len(list((cache_folder() / "sources").glob("*.lock"))) == 1
    assert open_corpus("old").ids_N.tobytes() == (TEXT * 20).encode()  # made again
    assert all(item.kept_because for item in prune(30))


def test_opening_a_text_marks_it_as_used():
    open_corpus("old")
    assert {item.kept_because for item in prune(30)} == {"it was used less than 30 days ago"}
    assert {item.kept_because for item in prune(0)} == {None}


@pytest.mark.parametrize("alphabet", ["bytes", "letters"])
def test_mapped_text_is_kept(alphabet):
    corpus = open_corpus("old", alphabet)
    aged("old")
    content, old = corpus.ids_N.tobytes(), files("old")
    for rehearsal in (True, False):
        found = {item.name: item.kept_because for item in prune(0, rehearsal)}
        assert found["old"] == "a process is using it"
    part = corpus.ids_N[3:20]
    del corpus
    assert {item.name: item.kept_because for item in prune(0)}["old"] == "a process is using it"
    assert all(path.exists() for path in old)
    assert part.tobytes() == content[3 * part.itemsize : 20 * part.itemsize]
    del part
    assert {item.name: item.kept_because for item in prune(0)} == {"old": None}


def test_text_of_another_process_is_kept_until_it_ends():
    words = (
        "import time; from charladder.text import open_corpus\n"
        "ids_N = open_corpus('old').ids_N; print(1, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"1\n"
            aged("old")
            assert {item.name: item.kept_because for item in prune(0)} == {"old": "a process is using it", "new": None}
        finally:
            process.kill()
    assert {item.name: item.kept_because for item in prune(0)} == {"old": None}


def test_nothing_is_pruned_while_a_text_is_opened():
    before = cached()
    with shared_cache_lock(), pytest.raises(UserError, match="another process is reading a text into the cache"):
        prune(0)
    assert cached() >= before and files("old")
    with exclusive_cache_lock():
        opener = subprocess.Popen([sys.executable, "-c", "from charladder.text import open_corpus; open_corpus('old')"])
        time.sleep(0.5)
        assert opener.poll() is None
    assert opener.wait(120) == 0


def test_texts_that_cannot_be_read_again_are_kept(monkeypatch):
    reader, writer = os.pipe()
    os.write(writer, b"from a stream " * 9)
    os.close(writer)
    with os.fdopen(reader) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        open_corpus("-")
    folder = cache_folder() / "downloads"
    folder.mkdir()
    (folder / "text8.zip").write_bytes(b"by hand")
    url = download_path("http://example.org/book.txt", folder)
    url.write_bytes(b"fetched")
    cut = url.with_name(url.name + ".part")
    cut.write_bytes(b"half")
    found = {item.name: item.kept_because for item in prune(0)}
    assert found.pop("standard input") == "it came from standard input, and cannot be read again"
    assert found.pop("text8.zip") == "it may have been put there by hand"
    assert found == {"old": None, "new": None, "book.txt": None, cut.name: None}
    left = [path for path in cached() if "texts" in path or "downloads" in path]
    assert sorted(Path(path).suffix for path in left) == [".bytes", ".json", ".used", ".zip"]


def test_partial_files_of_killed_processes_are_removed():
    """A note and a file of ids, each in the folder in which its process wrote it."""
    writers = []
    for target in (cache_folder() / "sources" / "note.json", next((cache_folder() / "texts").glob("*.ids"))):
        writers.append(atomic_write(target, shared=True))  # collected, one would remove its folder
        part = writers[-1].__enter__()
        part.write_bytes(b"half")
        os.utime(part, (time.time() - 2 * SECONDS_PER_DAY,) * 2)
        os.utime(part.parent, (time.time() - 2 * SECONDS_PER_DAY,) * 2)
    left = sorted(cache_folder().rglob("*.part"))
    found = {item.name: item.bytes for item in prune(1) if item.kind == "unfinished file"}
    assert found == {path.name: 4 for path in left} and len(found) == 2
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize("name", ["data.json", "book.part1.txt"])
def test_downloads_are_pruned_by_their_last_use_whatever_their_names(name):
    path = download_path(f"https://example.org/{name}", cache_folder() / "downloads")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"text")
    os.utime(path, (time.time() - 40 * SECONDS_PER_DAY,) * 2)
    used = path.with_name(f"{path.name}.used")
    used.touch()
    assert [(item.kind, item.name) for item in prune(30) if path in item.files] == [("download", name)]
    assert path.exists()
    os.utime(used, (time.time() - 40 * SECONDS_PER_DAY,) * 2)
    prune(30)
    assert not path.exists() and not used.exists()


def test_failed_removal_is_reported(monkeypatch):
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    found = {item.name: item.kept_because for item in prune(30)}
    assert found["old"] == "it cannot be removed: Permission denied"


def test_the_command(capsys):
    before, size = cached(), sum(path.stat().st_size for path in files("old"))
    assert main(["corpora", "--prune", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert f"text old, {size:,} bytes, last used " in out and ": would be removed\n" in out
    assert out.splitlines()[-1].startswith(f"would be removed: {size:,} bytes of ")
    assert cached() - {"pruning.lock"} == before - {"pruning.lock"}
    assert main(["corpora", "--prune", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["dry_run"], found["days"], found["bytes"]) == (False, 30.0, size)
    assert [item["name"] for item in found["removed"]] == ["old"]
    assert [(item["name"], item["why"]) for item in found["kept"]] == [("new", "it was used less than 30 days ago")]
    assert main(["corpora", "--prune", "--days", "0"]) == 0
    assert "text new" in capsys.readouterr().out
    assert not any(Path(path).suffix == ".bytes" for path in cached())


def test_without_a_cache_there_is_nothing_to_prune(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CHARLADDER_CACHE", str(tmp_path / "nowhere"))
    assert main(["corpora", "--prune"]) == 0
    assert "removed: 0 bytes of 0" in capsys.readouterr().out
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_can_be_read(tmp_path):
    for path in sorted(cache_folder().rglob("*")):
        path.chmod(0o500 if path.is_dir() else 0o400)
    assert open_corpus("old").ids_N.tobytes() == (TEXT * 20).encode()
