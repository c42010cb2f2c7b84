"""From what a person types to the files that are read, with the names that file systems really have."""

import gzip
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from charladder.errors import UserError
from charladder.text import open_corpus

ODD = ["a b", "it's", 'say "x"', "-rf", "--help", "über", "日本語", "new\nline", "[x]", "*", "a;b", "$HOME", "#"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def text_of(*data: str) -> bytes:
    return open_corpus(data).ids_N.tobytes()


@pytest.mark.parametrize("name", ODD)
def test_odd_names(name):
    Path(name).write_bytes(b"a ladder")
    assert text_of(name) == b"a ladder"
    corpus = open_corpus(name)
    os.chdir("/")
    assert open_corpus(corpus.names).sha256 == corpus.sha256, "a saved name must be found from any folder"


def test_a_name_that_is_not_utf8():
    name = os.fsdecode(b"odd-\xff")
    Path(name).write_bytes(b"a ladder")
    assert text_of(name) == b"a ladder"
    assert text_of(".") == b"a ladder"


def test_folder_is_read_in_order_without_hidden_files_and_runs():
    Path("f/b").mkdir(parents=True)
    Path("f/.git").mkdir()
    Path("f/runs/one").mkdir(parents=True)
    for name, data in (("z", b"4"), ("a", b"1"), ("b/y", b"5"), ("empty", b""), (".hidden", b"h"), (".git/x", b"g")):
        Path("f", name).write_bytes(data)
    Path("f/packed.gz").write_bytes(gzip.compress(b"3"))
    with zipfile.ZipFile("f/many.zip", "w") as archive:
        archive.writestr("one", "2a")
        archive.writestr("two", "2b")
    for name in ("config.toml", "environment.json", "model.safetensors"):
        Path("f/runs/one", name).write_bytes(b"run")
    corpus = open_corpus("f")
    assert corpus.ids_N.tobytes() == b"12a2b345"
    assert corpus.ends_F.tolist() == [1, 3, 5, 6, 7, 8]


def test_cache_inside_the_folder_is_left_out(monkeypatch):
    Path("text").write_bytes(b"a ladder")
    monkeypatch.setenv("CHARLADDER_CACHE", "cache")
    assert text_of(".") == b"a ladder"
    assert text_of(".") == b"a ladder"


def test_patterns_and_lists():
    Path("logs/more").mkdir(parents=True)
    for name in ("b.log", "a.log", "c.txt", "more/d.log"):
        Path("logs", name).write_bytes(name[-5:-4].encode())
    assert text_of("logs/*.log") == b"ab"
    assert text_of("logs/**/*.log") == b"abd"
    assert text_of("logs/c.txt", "logs/a.log", "logs/c.txt") == b"cac"
    assert open_corpus(["logs/b.log", "logs/a.log"]).ends_F.tolist() == [1, 2]
    saved = open_corpus("logs/*.log").names
    os.chdir("/")
    assert open_corpus(saved).ids_N.tobytes() == b"ab"
    with pytest.raises(UserError, match=r"no file matches '\*.nothing'"):
        text_of("*.nothing")


def test_missing_file_of_several_is_named():
    Path("a").write_bytes(b"a")
    with pytest.raises(UserError, match="called 'b'"):
        text_of("a", "b")


def test_links():
    Path("real").write_bytes(gzip.compress(b"a ladder"))
    Path("link.gz").symlink_to("real")
    Path("loop").symlink_to("loop")
    Path("nowhere").symlink_to("gone")
    assert text_of("link.gz") == b"a ladder", "how a file is packed is said by the name that is given"
    with pytest.raises(UserError, match=r"'nowhere' \(it is a link to nothing\)"):
        text_of("nowhere")
    with pytest.raises(UserError, match="loop cannot be read: Too many levels"):
        text_of("loop")
    Path("f").mkdir()
    Path("f/text").write_bytes(b"text")
    Path("f/up").symlink_to("..")
    Path("f/dangling").symlink_to("gone")
    assert text_of("f") == b"text", "no folders behind links, so no circles"


def test_fifo_is_read_once_and_found_in_the_cache():
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_bytes(b"a ladder " * 50_000))
    writer.start()
    corpus = open_corpus("pipe")
    writer.join()
    assert corpus.ids_N.tobytes() == b"a ladder " * 50_000
    assert corpus.names == ("-",)
    assert np.array_equal(open_corpus("-", expected_sha256=corpus.sha256).ids_N, corpus.ids_N)


def test_fifo_in_a_folder_is_left_out():
    Path("f").mkdir()
    os.mkfifo("f/pipe")
    Path("f/text").write_bytes(b"text")
    assert text_of("f") == b"text"


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null"])
def test_devices_are_refused(name):
    with pytest.raises(UserError, match=f"{name} is a device"):
        text_of(name)


@pytest.mark.parametrize(("name", "said"), [("a\0b", "zero byte"), ("x" * 5000, "too long"), ("f/x/y", "no file")])
def test_invalid_names_are_refused(name, said):
    with pytest.raises(UserError, match=said):
        text_of(name)


def test_standard_input():
    code = "import sys; from charladder.text import open_corpus as o; sys.stdout.buffer.write(o('-').ids_N.tobytes())"
    data = bytes(range(256)) * 4000
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True, timeout=60)
    assert done.stdout == data


def test_stream_with_other_files_is_refused():
    Path("text").write_bytes(b"text")
    os.mkfifo("pipe")
    with pytest.raises(UserError, match="pipe is a stream, which can only be read alone"):
        open_corpus(["text", "pipe"])


def test_stream_missing_from_the_cache_is_refused():
    with pytest.raises(UserError, match="is gone, and the text came from standard input"):
        open_corpus("-", expected_sha256="0" * 64)


def test_named_corpus_among_files_keeps_its_files_and_encoding():
    Path("text").write_bytes("ä".encode("latin-1"))
    alone = open_corpus("python")
    both = open_corpus(["python", "text"], encoding="latin-1")
    assert both.ids_N.tobytes() == alone.ids_N.tobytes() + "ä".encode()
    assert both.ends_F.tolist() == [*alone.ends_F.tolist(), len(both.ids_N)]


@pytest.mark.parametrize("junk", ["{}", "[]", "3", "[" * 20_000, '{"fingerprint": 3}', '{"ends": [], "unknown": 0}'])
def test_invalid_records_are_ignored(tmp_path, monkeypatch, junk):
    monkeypatch.setenv("CHARLADDER_CACHE", str(tmp_path / "cache"))
    Path("text").write_bytes(b"a ladder")
    first = open_corpus("text", "letters")
    for note in Path("cache").rglob("*.json"):
        note.write_text(junk)
    again = open_corpus("text", "letters")
    assert (again.alphabet, again.ends_F.tolist()) == (first.alphabet, [8])
    assert np.array_equal(again.ids_N, first.ids_N)
