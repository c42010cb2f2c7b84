"""Gathering: whole or not at all, once, and never from a file that is something else by the end."""

import contextlib
import errno
import gzip
import hashlib
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charladder.errors import UserError
from charladder.text import ingest, open_corpus
from charladder.text.cache import cache_folder
from charladder.text.ingest import ExpectedText, ingest_sources
from charladder.text.sources import Source, find_sources


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHARLADDER_CACHE", str(tmp_path / "cache"))
    return tmp_path


def in_cache(*suffixes: str) -> list[Path]:
    return sorted(path for path in cache_folder().rglob("*") if path.suffix in suffixes)


@given(data=st.lists(st.binary(max_size=40), max_size=6))
def test_ingestion_returns_every_byte_and_boundary(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("files")
    sources = []
    for number, content in enumerate(data):
        (folder / f"{number}").write_bytes(content)
        sources.append(Source(f"{number}", folder / f"{number}"))
    text = ingest_sources(str(folder), sources)
    assert text.path.read_bytes() == b"".join(data)
    assert text.sha256 == hashlib.sha256(b"".join(data)).hexdigest()
    begins = [0, *text.ends][: len(text.ends)]
    pieces = [b"".join(data)[begin:end] for begin, end in zip(begins, text.ends, strict=True)]
    assert pieces == [content for content in data if content]


def test_sparse_files_stay_sparse():
    with Path("sparse").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"end")
        file.truncate((5 << 20) + 7)
    text = ingest_sources("x", find_sources("sparse", []))
    assert text.path.read_bytes() == Path("sparse").read_bytes()
    assert text.path.stat().st_blocks * 512 < 1 << 20


def test_unchanged_file_is_not_read_again(monkeypatch):
    Path("text").write_bytes(b"one")
    first = open_corpus("text")
    monkeypatch.setattr(ingest, "_ingest_locked", None)
    assert open_corpus("text").sha256 == first.sha256


@pytest.mark.parametrize("touch", ["same size", "longer", "same size and time", "another file"])
def test_changed_file_is_noticed_immediately(here, touch):
    Path("text").write_bytes(b"one")
    before, first = Path("text").stat(), open_corpus("text").sha256
    if touch == "another file":
        Path("other").write_bytes(b"two")
        Path("other").replace("text")
    else:
        Path("text").write_bytes(b"longer" if touch == "longer" else b"two")
    if touch == "same size and time":
        os.utime("text", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert open_corpus("text").sha256 != first


def test_line_ends_and_byte_order_marks_are_kept():
    data = b"\xef\xbb\xbfone\r\ntwo\rthree\n\x00\x1a"
    Path("text").write_bytes(data)
    assert open_corpus("text").ids_N.tobytes() == data


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-32", "utf-8-sig", "shift_jis"])
def test_encodings_become_utf8(encoding):
    text = "ladder\r\n" + ("日本" if encoding == "shift_jis" else "äöü") * 200_000
    Path("one").write_bytes(text.encode(encoding))
    Path("two").write_bytes("layer".encode(encoding))
    corpus = open_corpus(["one", "two"], encoding=encoding)
    assert corpus.ids_N.tobytes().decode() == text + "layer"
    assert corpus.ends_F.tolist() == [len(text.encode()), len((text + "layer").encode())]


def test_another_encoding_is_another_text():
    Path("text").write_bytes("ä".encode("latin-1"))
    assert open_corpus("text").ids_N.tobytes() == b"\xe4"
    assert open_corpus("text", encoding="latin-1").ids_N.tobytes() == "ä".encode()
    assert open_corpus("text").ids_N.tobytes() == b"\xe4"


@pytest.mark.parametrize(
    ("encoding", "data", "said"),
    [
        ("ascii", b"abc\xff", "text is not ascii at byte 3"),
        ("utf-16-le", b"ab\x00\xd8a\x00", "text is not utf-16-le at byte 2"),
        ("utf-16-le", b"a\x00b", "text is not utf-16-le at byte 2"),
        ("nonsense", b"x", "no text encoding called 'nonsense'"),
        ("rot13", b"x", "no text encoding called 'rot13'"),
        ("hex", b"x", "no text encoding called 'hex'"),
        ("a\0b", b"x", "no text encoding called"),
        ("", b"x", "no text encoding called ''"),
    ],
)
def test_wrong_encoding_raises_user_error(encoding, data, said):
    Path("text").write_bytes(data)
    with pytest.raises(UserError, match=said):
        open_corpus("text", encoding=encoding)
    assert not in_cache(".bytes", ".part")


def test_invalid_byte_is_located_across_chunks():
    Path("text").write_bytes(b"a" * 600_001 + b"\xff")
    with pytest.raises(UserError, match="at byte 600001"):
        open_corpus("text", encoding="ascii")


def meddle(monkeypatch: pytest.MonkeyPatch, change) -> None:
    """Calls `change` once, when the first chunk has been read."""
    real, done = ingest.PartialFile.write, []

    def write(self, chunk):
        real(self, chunk)
        if not done:
            done.append(True)
            change()

    monkeypatch.setattr(ingest.PartialFile, "write", write)


def test_growing_file_is_read_to_its_first_length_with_a_note(monkeypatch):
    data = os.urandom(1 << 20)
    Path("log").write_bytes(data)

    def grow() -> None:
        with Path("log").open("ab") as file:
            file.write(b"more")

    meddle(monkeypatch, grow)
    corpus = open_corpus("log")
    assert corpus.ids_N.tobytes() == data
    assert corpus.notes == ("log grew while it was read; its first 1,048,576 bytes are used",)
    assert open_corpus("log").ids_N.tobytes() == data + b"more", "and the next time it is read anew"


@pytest.mark.parametrize("change", ["shrinks", "is written over", "packed grows"])
def test_changing_file_is_refused(monkeypatch, change):
    name = "text.gz" if change == "packed grows" else "text"
    data = os.urandom(1 << 20)
    if name == "text.gz":
        data = gzip.compress(data)
    Path(name).write_bytes(data)

    def act() -> None:
        if change == "shrinks":
            os.truncate(name, 1000)
        else:
            with Path(name).open("ab" if name == "text.gz" else "r+b") as file:
                file.write(b"x")

    meddle(monkeypatch, act)
    with pytest.raises(UserError, match=f"{name} was changed while it was read"):
        open_corpus(name)
    assert not in_cache(".bytes", ".part")


def test_file_removed_during_ingestion_is_refused(monkeypatch):
    Path("f").mkdir()
    for name in ("a", "b"):
        Path("f", name).write_bytes(without_zeros(1000))
    meddle(monkeypatch, Path("f/b").unlink)
    with pytest.raises(UserError, match="f/b cannot be read: No such file"):
        open_corpus("f")
    assert not in_cache(".bytes", ".part")


@pytest.mark.parametrize("after", [1, 5, 9, 13])
def test_interrupted_ingestion_resumes_from_the_journal(monkeypatch, after):
    Path("f").mkdir()
    for number in range(4):
        Path("f", f"{number}").write_bytes(os.urandom((1 << 20) - number))
    whole = b"".join(Path("f", f"{number}").read_bytes() for number in range(4))
    monkeypatch.setattr(ingest, "JOURNAL_SECONDS", 0.0)
    real, calls, fresh = ingest.PartialFile.write, [], []

    def write(self, chunk):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(len(chunk))
        real(self, chunk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest.PartialFile, "write", write)
        with pytest.raises(KeyboardInterrupt):
            open_corpus("f")
    assert not in_cache(".bytes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest.PartialFile, "write", lambda self, chunk: (fresh.append(len(chunk)), real(self, chunk)))
        corpus = open_corpus("f")
    assert corpus.ids_N.tobytes() == whole
    assert corpus.sha256 == hashlib.sha256(whole).hexdigest()
    assert corpus.ends_F.tolist() == [len(whole[: sum((1 << 20) - n for n in range(k + 1))]) for k in range(4)]
    assert sum(fresh) == len(whole) - sum(calls), "what was read before is not read again"
    assert not in_cache(".part")


def test_killed_ingestion_resumes_or_restarts_and_leaves_no_files(here):
    Path("big").write_bytes(os.urandom(64 << 20))
    code = (
        "import time, charladder.text.ingest as g; from charladder.text import open_corpus; g.JOURNAL_SECONDS = 0;"
        "open_corpus('big', on_progress=lambda *a: time.sleep(0.02))"
    )
    for _ in range(3):
        before = {path: path.stat().st_mtime_ns for path in in_cache(".part")}
        process = subprocess.Popen([sys.executable, "-c", code])
        until = time.monotonic() + 120
        while all(path in before and seen(path) in (before[path], 0) for path in in_cache(".part")):
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not in_cache(".bytes")
    assert open_corpus("big").ids_N.tobytes() == Path("big").read_bytes()
    assert not in_cache(".part")


def without_zeros(size: int) -> bytes:
    """Random bytes that count as text: of a folder, files with a zero byte are left out where others have none."""
    return os.urandom(size).replace(b"\0", b"x")


def seen(path: Path) -> int:
    """When it was last written to; 0 if it is no longer there."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime_ns
    return 0


@pytest.mark.parametrize("note", [1, 4, 5])
def test_ingestion_killed_while_writing_a_record_leaves_no_files(here, note):
    """Of two files there is a note after each chunk and each file, and the fifth is the record of the whole."""
    Path("f").mkdir()
    for name in "ab":
        Path("f", name).write_bytes(without_zeros(1000))
    code = (
        "import json, os, signal, sys, charladder.text.ingest as g; from charladder.text import open_corpus\n"
        "g.JOURNAL_SECONDS, real, calls = 0, json.dump, []\n"
        "def dump(value, file):\n"
        "    calls.append(value); real(value, file); file.flush()\n"
        "    if len(calls) == int(sys.argv[1]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "json.dump = dump\n"
        "open_corpus('f')"
    )
    assert subprocess.run([sys.executable, "-c", code, f"{note}"], check=False).returncode == -signal.SIGKILL
    another = cache_folder() / "sources" / f"{'0' * 32}.json-another.part"
    another.touch()  # of another DATA, whose reader may live
    [left] = [path for path in in_cache(".part") if ".json" in path.name and path != another]
    whole = open_corpus("f")
    assert whole.ids_N.tobytes() == Path("f", "a").read_bytes() + Path("f", "b").read_bytes()
    assert in_cache(".part") == [another]
    assert not left.exists()
    assert not [path for path in in_cache(".json") if path.name.endswith(".part.json")]


def convert(place: str, barrier, out) -> None:
    os.chdir(place)
    barrier.wait()
    corpus = open_corpus("f", "letters")
    out.put((corpus.sha256, hashlib.sha256(corpus.ids_N.tobytes()).hexdigest()))


@pytest.mark.slow
def test_concurrent_ingestion_gives_one_complete_text(here):
    Path("f").mkdir()
    for number in range(20):
        Path("f", f"{number:02}").write_text(f"{number} ladders äöü. " * 40_000)
    context = multiprocessing.get_context("spawn")
    barrier, out = context.Barrier(4), context.Queue()
    processes = [context.Process(target=convert, args=(str(here), barrier, out)) for _ in range(4)]
    for process in processes:
        process.start()
    answers = {out.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    whole = b"".join(path.read_bytes() for path in sorted(Path("f").iterdir()))
    assert [sha256 for sha256, _ in answers] == [hashlib.sha256(whole).hexdigest()]
    assert [path.read_bytes() for path in in_cache(".bytes")] == [whole]
    assert len(in_cache(".ids")) == 1
    assert not in_cache(".part")


def test_full_disk_raises_user_error_and_leaves_no_files(monkeypatch):
    Path("text").write_bytes(os.urandom(1 << 20))

    def full(self, chunk):
        with ingest.cache_write_errors():
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ingest.PartialFile, "write", full)
    with pytest.raises(UserError, match="no room left for it; free some, or set CHARLADDER_CACHE"):
        open_corpus("text")
    assert not in_cache(".bytes", ".part")


def test_unexpected_content_is_refused_and_leaves_no_files():
    Path("text").write_bytes(b"one")
    right = ExpectedText(3, {"md5": hashlib.md5(b"one").hexdigest()})
    assert ingest_sources("x", find_sources("text", []), expected=right).bytes == 3
    with pytest.raises(UserError, match="unpacks to 3 bytes and not 4"):
        ingest_sources("y", find_sources("text", []), expected=ExpectedText(4, {}))
    with pytest.raises(UserError, match=r"has the MD5 \w+ and not abc"):
        ingest_sources("z", find_sources("text", []), expected=ExpectedText(3, {"md5": "abc"}))
    assert not in_cache(".part")


def test_missing_or_truncated_cached_text_is_read_again():
    Path("text").write_bytes(b"a ladder")
    open_corpus("text")
    (copy,) = in_cache(".bytes")
    copy.write_bytes(b"a")
    assert open_corpus("text").ids_N.tobytes() == b"a ladder"
    copy.unlink()
    assert open_corpus("text").ids_N.tobytes() == b"a ladder"
    for record in in_cache(".json"):
        record.write_text("{")
    assert open_corpus("text").ids_N.tobytes() == b"a ladder"


def test_cache_files_have_the_mode_of_the_umask(here):
    Path("text").write_bytes(b"a ladder " * 100)
    before = os.umask(0o027)
    try:
        open_corpus("text", "letters")
    finally:
        os.umask(before)
    found = [path for path in cache_folder().rglob("*") if path.suffix in (".json", ".ids", ".bytes")]
    assert len(found) >= 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o640}


def test_old_partial_files_are_removed(here):
    Path("text").write_bytes(b"a ladder")
    open_corpus("text")
    for folder in ("sources", "texts"):
        for name, age in (("old.part", 100_000), ("new.part", 0)):
            path = cache_folder() / folder / name
            path.touch()
            os.utime(path, (time.time() - age, time.time() - age))
    Path("other").write_bytes(b"another ladder")
    open_corpus("other")
    assert [path.name for path in in_cache(".part")] == ["new.part", "new.part"]
