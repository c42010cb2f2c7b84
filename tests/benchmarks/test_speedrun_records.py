"""The results of the speedrun as CSV, and their table."""

import pytest
from benchmarks.speedrun import records
from benchmarks.speedrun.records import append_row, fill_page, markdown_table, read_rows, to_csv
from benchmarks.speedrun.task import TEXT_SHA256

from charladder.errors import UserError


def row(entry="ladder", seed=0, bits=2.0, **other) -> dict[str, str]:
    values = dict.fromkeys(records.COLUMNS, "x") | {"entry": entry, "seed": str(seed), "bits_per_character": repr(bits)}
    values |= {"seconds": "300", "text_sha256": TEXT_SHA256, "processor": "some | CPU", "cores": "2", "source": ""}
    return values | {"commit": "abc", "date": "2026-01-01"} | other


def five(entry, bits, **other) -> list[dict[str, str]]:
    return [row(entry, seed, bits + seed / 1000, **other) for seed in range(5)]


def test_rows_are_appended_and_read(tmp_path):
    path = tmp_path / "speedrun.csv"
    assert read_rows(path) == []
    rows = [row(seed=0, settings='{"layers": 4, "rate": 0.1}'), row(seed=1)]
    for one in rows:
        append_row(path, one)
    assert read_rows(path) == rows
    assert path.read_text() == to_csv(rows) and list(tmp_path.iterdir()) == [path]


def test_a_row_that_cannot_be_written_leaves_the_file(tmp_path, monkeypatch):
    path = tmp_path / "speedrun.csv"
    append_row(path, row())
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        append_row(path, row(seed=1))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "its columns are not those"),
        ("entry,seconds\n", "its columns are not those"),
        (to_csv([row()]).rsplit(",", 3)[0] + "\n", "row 2 is not complete"),
        (to_csv([row()]).rstrip("\n") + ",more\n", "row 2 is not complete"),
        (to_csv([row() | {"seed": "first"}]), "row 2 is not complete"),
        (to_csv([row(), row(bits=float("nan"))]), "row 3 has a number that is not finite"),
        (to_csv([row(seconds="long")]), "could not convert"),
        ('entry,"', "unexpected end of data"),
    ],
)
def test_files_that_are_not_results(text, sentence, tmp_path):
    path = tmp_path / "speedrun.csv"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        append_row(path, row())
    assert sentence in str(caught.value) and "give another --results" in str(caught.value)
    assert path.read_text() == text


def test_table():
    rows = [*five("reference", 2.1), *five("ladder", 2.0), *five("sprint", 1.9)[:2], *five("ladder", 2.3, seconds="60")]
    rows += [row("pairs", bits=3.0, source="https://example.org at 1a2b", text_sha256="other")]
    text = markdown_table(rows)
    assert text.index("### 300 seconds") < text.index("### 60 seconds")
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| entry")]
    assert [line.split(" | ")[0] for line in lines] == [
        "| sprint (2 of 5 seeds, no record)", "| ladder", "| reference",
        "| pairs (another text; 1 of 5 seeds, no record; https://example.org at 1a2b)", "| ladder",
    ]  # fmt: skip
    assert lines[1] == (
        "| ladder | 2.0020 | 2.0000 to 2.0040 | 2.0000, 2.0010, 2.0020, 2.0030, 2.0040 | some \\| CPU, 2 cores "
        "| `abc` | 2026-01-01 |"
    )
    assert "| one seed: none |" in lines[3]


def test_verifications_are_kept_apart():
    rows = [*five("ladder", 2.0), *five("ladder", 2.1, commit="def"), *five("ladder", 2.2, processor="another")]
    assert markdown_table(rows).count("\n| ladder |") == 3
    assert markdown_table([]) == "No entry has been verified yet.\n"


def test_page_is_filled_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{records.BEGIN}\nold\n{records.END}\n\nafter\n")
    fill_page(page, five("ladder", 2.0))
    first = page.read_text()
    assert first.startswith(f"before\n\n{records.BEGIN}\n\n### 300 seconds\n")
    assert first.endswith(f"\n\n{records.END}\n\nafter\n") and "old" not in first
    fill_page(page, five("ladder", 2.0))
    assert page.read_text() == first
    page.write_text(first.replace(records.END, ""))
    with pytest.raises(UserError, match="has no place for the table"):
        fill_page(page, [])
