"""Lines of files, archives and JSON lines, in blocks of bounded size."""

import json
import random
import zipfile
from pathlib import Path

import pytest

from charladder.scoring import read_blocks
from charladder.scoring.lines import MAX_LINE_BYTES
from charladder.text import find_text_sources
from charladder.text.archives import CHUNK_BYTES


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read_all(*data: str, **options) -> list[tuple[str, int, bytes]]:
    blocks = read_blocks(find_text_sources(data), **options)
    return [(line.file, line.line, line.data) for block in blocks for line in block.lines]


def test_lines_are_those_of_the_file_and_blocks_are_bounded():
    draw = random.Random(0)
    lines = [draw.randbytes(draw.randrange(4000)).replace(b"\n", b" ") for _ in range(600)] + [
        b"x" * 700_000,
        b"",
        b"y",
    ]
    Path("text").write_bytes(b"\n".join(lines))
    blocks = [*read_blocks(find_text_sources(["text"]))]
    found = [line for block in blocks for line in block.lines]
    assert [line.data.removesuffix(b"\n") for line in found] == lines
    assert [line.line for line in found] == list(range(1, len(lines) + 1))
    assert [line.has_end for line in found] == [True] * (len(lines) - 1) + [False]
    sizes = [sum(len(line.data) for line in block.lines) for block in blocks]
    assert len(blocks) > 3 and max(sizes) < 700_000 + 2 * CHUNK_BYTES
    assert [block.packed_bytes for block in blocks] == sorted(block.packed_bytes for block in blocks)
    assert blocks[-1].packed_bytes == sum(sizes) == Path("text").stat().st_size


def test_small_files_share_a_block_and_each_has_its_own_line_numbers():
    Path("folder").mkdir()
    for number in range(30):
        Path(f"folder/{number:02d}").write_text("one\ntwo\n")
    Path("folder/picture").write_bytes(b"\x89PNG\0\0")
    notes: list[str] = []
    (block,) = read_blocks(find_text_sources(["folder"]), notes=notes)
    assert [(line.file, line.line) for line in block.lines[:3]] == [
        ("folder/00", 1),
        ("folder/00", 2),
        ("folder/01", 1),
    ]
    assert len(block.lines) == 60
    assert notes == [
        "a file is left out, for it has zero bytes, as no text has: folder/picture; to read such a file, give its own "
        "name, or its encoding if it is text"
    ]


def test_archives_and_encodings():
    with zipfile.ZipFile("texts.zip", "w") as archive:
        archive.writestr("a", "first\nsecond")
        archive.writestr("picture", b"\x89PNG\0\0")
        archive.writestr("b", "third\n")
    assert read_all("texts.zip") == [
        ("texts.zip/a", 1, b"first\n"), ("texts.zip/a", 2, b"second"), ("texts.zip/b", 1, b"third\n"),
    ]  # fmt: skip
    Path("wide").write_text("grün\nrot\n", encoding="utf-16")
    assert read_all("wide", encoding="utf-16") == [("wide", 1, "grün\n".encode()), ("wide", 2, b"rot\n")]


def test_json_lines_and_parquet():
    rows = [{"text": "one\ntwo", "id": 1}, {"text": None}, {"text": "drei → 3"}]
    Path("rows.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    assert read_all("rows.jsonl", field="text") == [
        ("rows.jsonl", 1, b"one\ntwo"), ("rows.jsonl", 3, b""), ("rows.jsonl", 5, "drei → 3".encode()),
    ]  # fmt: skip
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    texts = [f"row {n} " * 100 for n in range(900)]
    parquet.write_table(pyarrow.table({"id": [*range(900)], "text": texts}), "rows.parquet")
    blocks = [*read_blocks(find_text_sources(["rows.parquet"]), field="text")]
    assert [line.data.decode() for block in blocks for line in block.lines] == texts
    assert [line.line for block in blocks for line in block.lines] == list(range(1, 901))
    assert len(blocks) > 1 and blocks[-1].packed_bytes == Path("rows.parquet").stat().st_size


def test_the_longest_line():
    Path("text").write_bytes(b"x" * (MAX_LINE_BYTES - 1) + b"\nshort")
    assert [len(data) for _, _, data in read_all("text")] == [MAX_LINE_BYTES, 5]
