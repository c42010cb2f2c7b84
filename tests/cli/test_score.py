"""`charladder score`: rows, their order and their files; inputs of all kinds; agreement with `evaluate`."""

import bz2
import gzip
import json
import shlex
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from caches import new_cache
from charladder.cli.main import main
from charladder.evaluation import table_file
from charladder.scoring import LineScorer

SHAPE = ["--layers", "2", "--width", "16", "--context", "32", "--batch", "2", "--steps", "2", "--score", "none"]
LOG = [f"request {n} took {n * 37 % 50} ms" for n in range(40)] + ["", "ZZQX!! 0xdeadbeef", "the end of it"]


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("score")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CHARLADDER_CACHE", new_cache(folder / "cache"))
        Path("text").write_text("request 12 took 31 ms\n" * 300)
        Path("log").write_text("\n".join(LOG))
        assert main(["train", "text", *SHAPE, "--run", "run"]) == 0
        assert main(["train", "text", *SHAPE, "--run", "lettered", "--alphabet", "text8", "--unknown", "drop"]) == 0
    return folder


@pytest.fixture(autouse=True)
def in_runs_folder(runs_folder, monkeypatch):
    monkeypatch.chdir(runs_folder)


def score(capsys, *arguments: str) -> list[dict]:
    capsys.readouterr()
    assert main(["score", *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def command_json(capsys, *arguments: str) -> dict:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_row_for_each_line_in_their_order(capsys):
    rows = score(capsys, "run", "log", "--span", "5")
    assert [row["line"] for row in rows] == list(range(1, 44)) and [row["text"] for row in rows] == LOG
    assert list(rows[0]) == [
        "file", "line", "text", "bits", "characters", "bits_per_character", "end_bits", "rank", "span", "span_begin",
        "span_end", "span_bits",
    ]  # fmt: skip
    for row in rows:
        assert row["characters"] == len(row["text"])
        assert row["bits_per_character"] == pytest.approx(row["bits"] / max(1, row["characters"]))
        assert row["span"] == row["text"][row["span_begin"] : row["span_end"]]
        assert 0 <= row["span_bits"] <= row["bits"] + 1e-9
    assert rows[0]["end_bits"] > 0 and rows[-1]["end_bits"] is None  # the file does not end with a newline
    assert (rows[40]["characters"], rows[40]["bits_per_character"], rows[40]["span"]) == (0, 0.0, "")


def test_top_prints_the_most_surprising_lines(capsys):
    rows = score(capsys, "run", "log")
    for measure in ("bits_per_character", "bits", "span_bits"):
        result = command_json(capsys, "score", "run", "log", "--top", "3", "--top-by", measure)
        expected = sorted((row for row in rows if row["characters"]), key=lambda row: -row[measure])[:3]
        assert [row["line"] for row in result["top"]] == [row["line"] for row in expected]
    assert result["lines"] == 43 and result["characters"] == len("\n".join(LOG))
    assert result["bits"] == pytest.approx(sum(row["bits"] + (row["end_bits"] or 0) for row in rows))
    assert main(["score", "run", "log", "--top", "3"]) == 0
    captured = capsys.readouterr()
    assert "deadbeef" in captured.out and "43 lines, " in captured.err and "span bits" not in captured.out
    assert main(["score", "run", "log", "--top", "1", "--top-by", "span_bits"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("span bits  bits/char")
    assert shown[1].split()[0] == f"{max(row['span_bits'] for row in rows):.1f}"


def test_whole_files_agree_with_evaluate(capsys):
    expected = command_json(capsys, "evaluate", "run", "log")
    total = expected["bits_per_character"] * expected["characters"]
    lines = score(capsys, "run", "log", "--continuous")
    assert sum(row["bits"] + (row["end_bits"] or 0) for row in lines) == pytest.approx(total, rel=1e-6)
    (file,) = score(capsys, "run", "log", "--by", "file", "--entropy")
    assert (file["lines"], file["characters"]) == (43, expected["characters"])
    assert file["bits_per_character"] == pytest.approx(expected["bits_per_character"], rel=1e-6)
    assert file["span_bits"] == max(row["span_bits"] for row in lines)
    characters = score(capsys, "run", "log", "--by", "character", "--entropy")
    assert "".join(row["character"] for row in characters) == "\n".join(LOG)
    assert [row["place"] for row in characters] == list(range(expected["characters"]))
    assert sum(row["bits"] for row in characters) == pytest.approx(total, rel=1e-6)
    assert main(["evaluate", "run", "log", "--export", "each.jsonl"]) == 0
    exported = [json.loads(line) for line in Path("each.jsonl").read_text().splitlines()]
    assert [{name: row[name] for name in exported[0]} for row in characters[1:]] == exported
    assert file["entropy"] == pytest.approx(sum(row["entropy"] for row in characters) / len(characters))


def test_the_bits_of_a_line_are_those_of_evaluate_after_a_newline(capsys):
    rows = score(capsys, "run", "log")
    for number in (0, 41):
        Path("line").write_text(f"\n{LOG[number]}")
        expected = command_json(capsys, "evaluate", "run", "line")
        bits = expected["bits_per_character"] * expected["characters"] - 8  # 8 bits of the newline
        assert rows[number]["bits"] == pytest.approx(bits, rel=1e-6)


def test_inputs_of_all_kinds_have_the_same_scores(capsys, monkeypatch):
    expected = [(row["text"], row["bits"]) for row in score(capsys, "run", "log")]
    data = Path("log").read_bytes()
    Path("log.gz").write_bytes(gzip.compress(data))
    Path("log.bz2").write_bytes(bz2.compress(data))
    Path("log.latin").write_bytes("é".encode("latin-1"))
    Path("log.jsonl").write_text("".join(json.dumps({"id": n, "text": line}) + "\n" for n, line in enumerate(LOG)))
    for arguments in (["log.gz"], ["log.bz2"], ["log.jsonl", "--field", "text"], ["-"], []):
        with Path("log").open() as stdin, monkeypatch.context() as patch:
            patch.setattr("sys.stdin", stdin)
            rows = score(capsys, "run", *arguments)
        assert [row["text"] for row in rows] == LOG
        assert [row["bits"] for row in rows] == pytest.approx([bits for _, bits in expected], rel=1e-6)
    assert [row["text"] for row in score(capsys, "run", "log.latin", "--encoding", "latin-1")] == ["é"]


def test_several_files_and_letters(capsys):
    rows = score(capsys, "lettered", "log", "text")
    assert {row["file"] for row in rows} == {"log", "text"} and len(rows) == 43 + 300
    assert rows[0]["text"] == "request  took  ms" and rows[0]["end_bits"] is None  # text8 has neither digits nor ends


def test_a_file_given_twice_has_two_rows(capsys):
    once, *twice = score(capsys, "run", "log", "--by", "file") + score(capsys, "run", "log", "log", "--by", "file")
    assert twice == [once, once]
    Path("rows.jsonl").write_text('{"t": "one"}\n')
    once, *twice = score(capsys, "run", "rows.jsonl", "--field", "t", "--by", "file") + score(
        capsys, "run", "rows.jsonl", "rows.jsonl", "--field", "t", "--by", "file"
    )
    Path("rows.jsonl").unlink()
    assert twice == [once, once]


def test_the_table_names_the_file_and_shows_long_words_whole(capsys):
    Path("hash").write_text("0123456789abcdef" * 8 + "\n")
    Path("plain").write_text("request 12 took 31 ms\n")
    assert main(["score", "run", "hash", "plain", "--top", "1"]) == 0
    shown = capsys.readouterr().out
    assert "hash:1" in shown and "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert shown.count("f") >= 8


def test_names_of_all_kinds(capsys):
    pytest.importorskip("pyarrow")
    for number, name in enumerate(("-dash", "{x}", "a b'c", "not\udcffutf8")):
        Path(name).write_text("request 1\n")
        assert main(["score", "run", "--output", f"names{number}.parquet", "--", name]) == 0
        line = capsys.readouterr().err.splitlines()[-1].removeprefix("the most surprising lines: charladder ")
        assert main(shlex.split(line)) == 0
        (row,) = score(capsys, "run", "--", name)
        assert row["file"].encode() == name.replace("\udcff", "\N{REPLACEMENT CHARACTER}").encode()


def test_output_to_a_link_to_nothing(capsys):
    Path("link.jsonl").symlink_to("nowhere")
    assert main(["score", "run", "log", "--output", "link.jsonl"]) == 2
    assert "link.jsonl exists and is not overwritten" in capsys.readouterr().err and Path("link.jsonl").is_symlink()


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_output_whose_name_is_taken_meanwhile(capsys, monkeypatch, tmp_path, ending):
    pytest.importorskip("pyarrow")
    path, score_block = tmp_path / f"rows.{ending}", LineScorer.score

    def take_name(*arguments):
        path.write_text("mine")
        return score_block(*arguments)

    monkeypatch.setattr(LineScorer, "score", take_name)
    assert main(["score", "run", "log", "--output", str(path)]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    kept = tmp_path / f"rows-2.{ending}"
    assert f"{path} was made by another process meanwhile and is not overwritten; the new file is {kept}" in message
    assert path.read_text() == "mine" and {*tmp_path.iterdir()} == {path, kept}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("fails_at", ["write", "end"])
def test_a_full_disk_is_reported_with_the_name_of_the_output(capsys, monkeypatch, tmp_path, ending, fails_at):
    """/dev/full in the temporary folder: rows are buffered, so few of them fail at the end only."""
    pytest.importorskip("pyarrow")
    path = tmp_path / f"rows.{ending}"
    atomic = table_file.atomic_write

    @contextmanager
    def on_full_disk(target, **options):
        with atomic(target, **options) as part:
            part.symlink_to("/dev/full")
            yield part

    monkeypatch.setattr(table_file, "atomic_write", on_full_disk)
    Path("many").write_text("request 1 took 2 ms\n" * 2000)
    assert main(["score", "run", "many" if fails_at == "write" else "log", "--output", str(path)]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert f"{path} cannot be written: " in message and "No space left on device" in message and "(--output)" in message
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_input_is_not_one_of_the_output(tmp_path):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(OSError, match="Input/output error"), table_file.write_table(path, {"a": "int64"}, "output"):
        raise OSError(5, "Input/output error")
    assert list(tmp_path.iterdir()) == []


def test_output_to_files(capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    expected = score(capsys, "run", "log", "--entropy")
    assert [len(row["entropy"]) for row in expected] == [len(line) for line in LOG]
    result = command_json(capsys, "score", "run", "log", "--entropy", "--output", "rows.jsonl")
    assert [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()] == expected
    assert result["lines"] == 43 and result["bits_per_character"] > 0
    assert score(capsys, "run", "log", "--entropy", "--output", "rows.parquet") == []
    rows = parquet.read_table("rows.parquet").to_pylist()
    assert [row["bits"] for row in rows] == [row["bits"] for row in expected]
    assert rows[1]["entropy"] == pytest.approx(expected[1]["entropy"], abs=1e-6)
    again = score(capsys, "run", "rows.parquet", "--field", "text")
    assert [row["bits"] for row in again] == pytest.approx([row["bits"] for row in expected], rel=1e-6)


def test_an_interrupted_score_leaves_no_file(runs_folder, monkeypatch):
    Path("many").write_text("request 1 took 2 ms\n" * 30_000)  # more than one block
    score_block, calls = LineScorer.score, []

    def interrupt(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return score_block(*arguments)

    monkeypatch.setattr(LineScorer, "score", lambda self, lines, report: interrupt(self, lines[:9], report))
    before = {*Path().iterdir()}
    assert main(["score", "run", "many", "--output", "part.jsonl"]) == 130
    assert len(calls) == 2 and {*Path().iterdir()} == before


@pytest.mark.slow
def test_rows_are_printed_before_the_pipe_ends():
    arguments = [sys.executable, "-m", "charladder", "score", "run"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        for line in (b"request 1\n", b"request 2\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["text"] == line.decode().strip()
        process.stdin.close()
        assert process.wait(60) == 0


BAD_INPUT = [
    (["run", "empty"], "empty is empty; give a file with text in it"),
    (["run", "gone"], "there is no file or corpus called 'gone'"),
    (["run", "log", "--stride", "33"], "--stride is 33; it must be between 1 and the context, 32"),
    (["run", "log", "--top", "0"], "--top is 0; it must be between 1 and 10,000"),
    (["run", "log", "--top", "3", "--by", "character"], "--top is for lines and files"),
    (["run", "log", "--span", "0"], "--span is 0; it must be between 1 and 65,536"),
    (["run", "log", "--json"], "--json prints one object, and rows are JSON lines"),
    (["run", "log", "--field", "text"], "log, line 1 is not a JSON object; --field is for JSON lines and parquet"),
    (["run", "rows.json", "--field", "txt"], "rows.json, line 1 has no field 'txt'; did you mean text? (--field)"),
    (["run", "rows.json", "--field", "id"], "rows.json, line 1: 'id' is not a string (--field)"),
    (["run", "rows.json", "--field", "text"], "rows.json, line 2: 'text' is not a string (--field)"),
    (["run", "log", "--field", "text", "--continuous"], "--continuous is for the lines of a text"),
    (["run", "no.parquet"], "no.parquet is a parquet file; say with --field which column"),
    (["run", "no.parquet", "--field", "text"], "no.parquet cannot be read as parquet: "),
    (["run", "cut.gz"], "cut.gz cannot be unpacked"),
    (["run", "long"], "long, line 1 has more than 4,194,304 bytes"),
    (["run", "log", "--output", "rows.csv"], "--output is rows.csv; it must end in .jsonl or .parquet"),
    (["run", "log", "--output", "taken.jsonl"], "taken.jsonl exists and is not overwritten; choose another name"),
    (["run", "log", "--output", "nowhere/rows.jsonl"], "there is no folder nowhere for rows.jsonl; make it first"),
    (["run", "cut.gz", "--output", "new.jsonl"], "cut.gz cannot be unpacked"),
    (["run", "log", "--unknown", "replce"], "invalid choice"),
    (["lettered", "log", "--unknown", "error"], "log, line 1 has the character '0' at position 8"),
    (["lettered", "log", "--unknown", "replace"], "only an alphabet learned with `replace` has"),
]


def test_bad_input_is_refused_in_one_sentence_and_leaves_no_file(runs_folder, capsys):
    Path("empty").touch()
    Path("taken.jsonl").touch()
    Path("rows.json").write_text('{"id": 1, "text": "one"}\n{"text": 2}\n')
    Path("no.parquet").write_bytes(b"not parquet")
    Path("cut.gz").write_bytes(gzip.compress(b"one line\n" * 900)[:-20])
    Path("long").write_bytes(bytes(5 << 20))
    before = {*Path().iterdir()}
    for arguments, message in BAD_INPUT:
        capsys.readouterr()
        assert main(["score", *arguments]) == 2, arguments
        captured = capsys.readouterr()
        assert len(captured.err.splitlines()) == 1 and message in captured.err, captured.err
        assert captured.out == "" or arguments[1] == "rows.json"
    assert {*Path().iterdir()} == before
