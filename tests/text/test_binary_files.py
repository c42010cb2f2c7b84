"""Files that are not text, in a folder or an archive: left out with a note, unless there are no others."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from charladder.cli.main import main
from charladder.errors import UserError
from charladder.text import ingest, open_corpus
from charladder.text.sources import find_sources

PICTURE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 40
TEXT = "The ladder leans on the wall. " * 40


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHARLADDER_CACHE", str(tmp_path / "cache"))
    Path("notes/sub").mkdir(parents=True)
    Path("notes/a.txt").write_text(TEXT)
    Path("notes/b.png").write_bytes(PICTURE)
    Path("notes/sub/c.txt").write_text("below\n")
    return tmp_path


def read(*data: str, **options) -> tuple[bytes, str]:
    """The bytes of a text, and its notes."""
    corpus = open_corpus(data, **options)
    return corpus.alphabet.decode(corpus.ids_N), " ".join(corpus.notes)


@pytest.mark.parametrize("alphabet", ["bytes", "letters"])
def test_binary_file_in_a_folder_is_left_out_with_a_note(alphabet):
    for _ in range(2):  # from the files, and from the cache
        content, notes = read("notes", alphabet=alphabet)
        assert content == (TEXT + "below\n").encode()
        assert "a file is left out, for it has zero bytes, as no text has: notes/b.png; to read such a file" in notes
    assert read("notes/*.*", alphabet=alphabet)[0] == TEXT.encode()


def test_named_binary_file_is_read():
    assert read("notes/a.txt", "notes/b.png") == (TEXT.encode() + PICTURE, "")
    assert read("notes/b.png") == (PICTURE, "")
    with pytest.raises(UserError, match=r"notes/b\.png is not UTF-8 at byte 0"):
        read("notes/b.png", alphabet="letters")


def test_binary_files_are_read_if_there_are_no_others():
    Path("pictures").mkdir()
    for number in range(2):
        Path(f"pictures/{number}.png").write_bytes(PICTURE)
    for _ in range(2):
        assert read("pictures") == (PICTURE * 2, "")
    assert read("notes/*.png") == (PICTURE, "")
    with zipfile.ZipFile("one.zip", "w") as archive:
        archive.writestr("b.png", PICTURE)
    assert read("one.zip") == (PICTURE, "")


def test_binary_members_of_an_archive_are_left_out():
    with zipfile.ZipFile("notes.zip", "w") as archive, tarfile.open("notes.tar.gz", "w:gz") as tar:
        for name, content in (("b.png", PICTURE), ("a.txt", TEXT.encode()), ("c.png", PICTURE)):
            archive.writestr(name, content)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    for name in ("notes.zip", "notes.tar.gz"):
        content, notes = read(name)
        assert content == TEXT.encode()
        assert f"2 files are left out, for they have zero bytes, as no text has: {name}/b.png, {name}/c.png;" in notes


def test_note_names_only_the_first_files():
    for number in range(9):
        Path(f"notes/sub/{number}.png").write_bytes(PICTURE)
    assert "notes/b.png, notes/sub/0.png, notes/sub/1.png and 7 more" in read("notes")[1]


def test_zero_bytes_are_looked_for_after_decoding():
    Path("notes/a.txt").write_text(TEXT, encoding="utf-16")
    Path("notes/sub/c.txt").write_text("below\n", encoding="utf-16")
    content, notes = read("notes/*.txt", "notes/sub", encoding="utf-16")
    assert (content, notes) == ((TEXT + "below\n").encode(), "")
    assert "3 files are left out" in read("notes", "notes/b.png")[1]  # without it
    Path("notes/a.txt").write_text("Größe " * 40, encoding="latin-1")
    Path("notes/sub/c.txt").unlink()
    assert read("notes", encoding="latin-1")[0] == ("Größe " * 40).encode()


def test_text_of_version_0_1_with_binary_files_is_found_by_digest():
    """As runs of version 0.1 were: by the SHA-256 of all files, where the cache has no copy any more."""
    everything = ingest.ingest_sources("x", find_sources("notes", []), include_binary=True)
    assert everything.path.read_bytes() == TEXT.encode() + PICTURE + b"below\n"
    everything.path.unlink()
    assert read("notes", expected_sha256=everything.sha256, files=3) == (TEXT.encode() + PICTURE + b"below\n", "")
    assert "left out" in read("notes", expected_sha256="0" * 64)[1]


@pytest.mark.parametrize("pictures_only", [False, True])
def test_interrupted_ingestion_resumes_with_the_same_binary_files(monkeypatch, pictures_only):
    Path("many").mkdir()
    for number in range(8):
        binary = pictures_only or number % 2 == 0
        Path(f"many/{number}").write_bytes(b"\0" * binary + os.urandom(400_000).replace(b"\0", b"x"))
    whole, notes = read("many/[0-9]")  # the same files by another name, and so another note in the cache
    monkeypatch.setattr(ingest, "JOURNAL_SECONDS", 0.0)
    real, calls = ingest.PartialFile.write, []

    def write(self, chunk):
        calls.append(chunk)
        if len(calls) in (3, 6):
            raise KeyboardInterrupt
        real(self, chunk)

    monkeypatch.setattr(ingest.PartialFile, "write", write)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            read("many")
    assert read("many") == (whole, notes)
    assert len(calls) == 2 + (16 if pictures_only else 8), "what was read before is not read again"


def test_commands_print_the_note(capsys):
    shape = "--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "2"
    assert main(["train", "notes", *shape, "--alphabet", "letters", "--run", "run"]) == 0
    assert "note: a file is left out, for it has zero bytes" in capsys.readouterr().err
    assert main(["evaluate", "run", "--limit", "20"]) == 0
    assert "notes/b.png" in capsys.readouterr().err
