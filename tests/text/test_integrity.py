"""What is in the cache is verified when a process first opens it, and made again where it is damaged."""

import os
from pathlib import Path

import numpy as np
import pytest

from charladder.errors import UserError
from charladder.text import ingest, integrity, open_corpus
from charladder.text.cache import cache_folder
from charladder.text.memory_map import MappedIds

TEXT = "a ladder has layers, größer und kleiner. " * 50


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHARLADDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(integrity, "_verified", {})
    Path("text").write_text(TEXT)
    return tmp_path


def another_process() -> None:
    integrity._verified.clear()


def cached() -> list[Path]:
    return [file for file in cache_folder().rglob("*") if file.is_file() and file.suffix not in (".lock", ".used")]


def damage(file: Path, place: int, way: str) -> None:
    """Changes a file without a change of its size and time, as a disk may do; or cuts it."""
    before, content = file.stat(), bytearray(file.read_bytes())
    content[place] ^= 1
    ways = {"flipped": content, "cut": content[:place], "garbage": b"\xff" * len(content)}
    file.write_bytes(ways[way])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


FILES = {
    "the text": "texts/*.bytes", "its letters": "texts/*.letters.json", "its ids": "texts/*.ids",
    "the note of the ids": "texts/*-*.json", "the note of the source": "sources/*.json",
}  # fmt: skip


@pytest.mark.parametrize("way", ["flipped", "cut", "garbage"])
@pytest.mark.parametrize("name", FILES)
def test_damaged_cache_files_are_created_again(name, way):
    first = open_corpus("text", "letters")
    ids, before = first.ids_N.tolist(), {file: file.read_bytes() for file in cached()}
    del first
    assert len(before) == len(FILES)
    [file] = cache_folder().glob(FILES[name])
    for place in {0, len(before[file]) // 3, len(before[file]) - 1}:
        damage(file, place, way)
        another_process()
        assert open_corpus("text", "letters").ids_N.tolist() == ids
        assert {file: file.read_bytes() for file in cached()} == before


def messages(*words: str) -> list[str]:
    said = []
    open_corpus("text", *words, on_progress=lambda what, done, total: said.append(what))
    return said


@pytest.mark.parametrize("words", [(), ("letters",)])
def test_text_is_verified_once_in_a_process(words):
    assert "verifying" not in messages(*words), "what this process has written itself is not read again"
    assert messages(*words) == []
    another_process()
    assert messages(*words) == ["verifying"] * (1 + len(words))
    assert messages(*words) == []
    for file in (cache_folder() / "texts").iterdir():
        os.utime(file, ns=(1, 1))
    assert messages(*words) == ["verifying"] * (1 + len(words)), "a file that was touched is verified again"


def test_text_from_standard_input_is_verified_and_refused_if_damaged(monkeypatch):
    reader, writer = os.pipe()
    os.write(writer, TEXT.encode())
    os.close(writer)
    with os.fdopen(reader, "r") as standard_input, monkeypatch.context() as patch:
        patch.setattr("sys.stdin", standard_input)
        sha256 = open_corpus("-").sha256
    another_process()
    assert open_corpus("-", expected_sha256=sha256).ids_N.tobytes() == TEXT.encode()
    (cache_folder() / "texts" / f"{sha256}.stream.json").write_text("{")
    assert open_corpus("-", expected_sha256=sha256).ends_F.tolist() == [len(TEXT.encode())]
    damage(cache_folder() / "texts" / f"{sha256}.bytes", 100, "flipped")
    another_process()
    with pytest.raises(UserError, match=r"the copy of the text in the cache \(.*\.bytes\) is damaged.* new run"):
        open_corpus("-", expected_sha256=sha256)


def test_damaged_partial_text_restarts_the_ingestion(monkeypatch):
    monkeypatch.setattr(ingest, "JOURNAL_SECONDS", 0)
    data = os.urandom(1 << 20)
    Path("big").write_bytes(data)

    def interrupt(what: str, done: int, total: int | None) -> None:
        if done > len(data) // 2:
            raise KeyboardInterrupt

    for flip in (False, True):
        with pytest.raises(KeyboardInterrupt):
            open_corpus("big", on_progress=interrupt)
        [part] = (cache_folder() / "sources").glob("*.part")
        if flip:
            damage(part, 1000, "flipped")
        begins = []
        corpus = open_corpus("big", on_progress=lambda what, done, total: begins.append(done))  # noqa: B023
        assert corpus.ids_N.tobytes() == data
        assert (begins[0] < len(data) // 2) == flip
        Path("big").touch()
        another_process()


@pytest.mark.parametrize("kind", ["bytes", "unicode"])
def test_truncated_mapped_text_raises_user_error_without_sigbus(kind):
    Path("text").write_text(TEXT * 100)
    ids = open_corpus("text", kind).ids_N
    assert isinstance(ids, MappedIds)
    part, rows = ids[100_000:150_000], np.arange(6).reshape(2, 3)
    assert type(ids[rows]) is np.ndarray
    assert isinstance(part, np.memmap), "a slice is not copied"
    assert part[rows].tolist() == ids[100_000 + rows].tolist()
    os.truncate(str(ids.filename), 5000)
    for array in (ids, part):
        for index in (0, slice(3), rows):
            with pytest.raises(
                UserError, match=r"in the cache was cut short by another program.* run the same command"
            ):
                array[index]
    del ids, part
    assert open_corpus("text", kind).ids_N[100_000:][rows].shape == rows.shape
