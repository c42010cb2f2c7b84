"""Prompts and texts that are not UTF-8, several texts of a prompt, and lines of prompts with settings of their own."""

import io
import json
import sys
from pathlib import Path

import pytest

from caches import new_cache
from charladder.cli.main import main

TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "2"]
TEXT = "Größe und Maß der Leiter, schön gemäß. "


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """runs: `bytes` has read Latin-1 as bytes, `recoded` the same as UTF-8, `lettered` as Unicode characters."""
    folder = tmp_path_factory.mktemp("prompts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CHARLADDER_CACHE", new_cache(folder / "cache"))
        Path("text").write_bytes(TEXT.encode("latin-1") * 200)
        for run, words in (
            ("bytes", []),
            ("recoded", ["--encoding", "latin-1"]),
            ("lettered", ["--encoding", "latin-1", "--alphabet", "letters"]),
        ):
            assert main(["train", "text", *TINY, "--run", run, *words]) == 0
    return folder


@pytest.fixture(autouse=True)
def inside(place, monkeypatch):
    monkeypatch.chdir(place)


def said(capsys, *words: str) -> dict:
    capsys.readouterr()
    assert main(["generate", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def lines(capsys, *words: str) -> list[dict]:
    capsys.readouterr()
    assert main(["generate", *words]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_run_on_bytes_is_sampled_in_its_own_encoding(capsys):
    found = said(capsys, "bytes", "--prompt", "Grö", "--length", "50", "--encoding", "latin-1")
    assert bytes(found["ids"]).decode("latin-1") == found["text"]
    assert any(one >= 128 for one in found["ids"])
    Path("prompt").write_bytes("Grö".encode("latin-1"))
    for words in (["--prompt-file", "prompt", "--encoding", "latin-1"], ["--prompt-file", "prompt"]):
        again = said(capsys, "bytes", *words, "--length", "50")
        assert again["ids"] == found["ids"]
    assert "\ufffd" in again["text"], "read as UTF-8, for no encoding was given"
    stop = bytes(found["ids"][20:22]).decode("latin-1")
    cut = said(capsys, "bytes", "--prompt", "Grö", "--length", "50", "--encoding", "latin-1", "--stop", stop)
    assert (cut["finish"], cut["text"]) == ("stop", found["text"][: found["text"].index(stop)])
    (line,) = lines_of(capsys, "bytes", [{"prompt": "Grö", "stop": stop}], "--length", "50", "--encoding", "latin-1")
    assert line["ids"] == cut["ids"]


def lines_of(capsys, run: str, prompts: list, *words: str) -> list[dict]:
    Path("prompts").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    return lines(capsys, run, "--prompts", "prompts", *words)


def test_raw_is_the_bytes_and_nothing_else(capfdbinary):
    assert main(["generate", "bytes", "--prompt", "Grö", "--length", "50", "--encoding", "latin-1", "--json"]) == 0
    ids = json.loads(capfdbinary.readouterr().out)["ids"]
    assert main(["generate", "bytes", "--prompt", "Grö", "--length", "50", "--encoding", "latin-1", "--raw"]) == 0
    assert capfdbinary.readouterr().out == "Grö".encode("latin-1") + bytes(ids)
    assert main(["generate", "lettered", "--length", "20", "--json"]) == 0
    text = json.loads(capfdbinary.readouterr().out)["text"]
    assert main(["generate", "lettered", "--length", "20", "--raw"]) == 0
    assert capfdbinary.readouterr().out == text.encode()


@pytest.mark.parametrize("run", ["recoded", "lettered"])
def test_a_prompt_file_in_another_encoding_is_recoded_for_a_run_on_unicode(capsys, run):
    Path("prompt").write_bytes("Grö".encode("latin-1"))
    wanted = said(capsys, run, "--prompt", "Grö", "--length", "20")
    assert (
        said(capsys, run, "--prompt-file", "prompt", "--encoding", "latin-1", "--length", "20")["ids"] == wanted["ids"]
    )


def test_a_prompt_file_from_standard_input(capsys, monkeypatch):
    wanted = said(capsys, "bytes", "--prompt", "Gr", "--length", "20")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Gr")))
    assert said(capsys, "bytes", "--prompt-file", "-", "--length", "20")["text"] == wanted["text"]


def test_samples_are_several_texts_and_the_first_is_the_one_alone(capsys):
    alone = said(capsys, "lettered", "--prompt", "Ma", "--length", "20")
    found = said(capsys, "lettered", "--prompt", "Ma", "--length", "20", "--samples", "5", "--together", "2")
    assert [sample["characters"] for sample in found["samples"]] == [20] * 5
    assert len({sample["text"] for sample in found["samples"]}) == 5
    assert found["samples"][0]["ids"] == alone["ids"]
    assert found["characters"] == 100
    rows = lines_of(capsys, "lettered", ["und", "Ma"], "--length", "20", "--samples", "5")
    assert [(row["prompt"], row["sample"]) for row in rows] == [(p, n) for p in ("und", "Ma") for n in range(5)]
    assert [row["text"] for row in rows[5:]] == [sample["text"] for sample in found["samples"]]
    capsys.readouterr()
    assert main(["generate", "lettered", "--prompt", "Ma", "--length", "20", "--samples", "2"]) == 0
    first, second = (f"--- {n} of 2 ---\nMa{found['samples'][n - 1]['text']}\n" for n in (1, 2))
    assert capsys.readouterr().out == first + second


def test_seed_length_and_stop_of_a_line_are_its_own(capsys):
    whole = said(capsys, "lettered", "--prompt", "Ma", "--length", "40", "--seed", "7")["text"]
    stop = whole[10:12]
    rows = lines_of(
        capsys,
        "lettered",
        [
            {"prompt": "Ma", "seed": 7, "length": 40},
            {"prompt": "Ma", "seed": 7, "length": 40, "stop": ["und und und", stop], "id": {"any": 1}},
            {"prompt": "Ma", "length": 3, "stop": []},
            "Ma",
        ],
        *("--length", "9", "--stop", "ö"),
    )
    assert rows[0]["text"] == whole.partition("ö")[0]
    assert rows[1]["text"] != whole, "the second text of this seed and prompt"
    assert (rows[1]["id"], rows[2]["characters"]) == ({"any": 1}, 3)
    (row,) = lines_of(capsys, "lettered", [{"prompt": "Ma", "seed": 7, "length": 40, "stop": stop}])
    assert (row["text"], row["finish"]) == (whole[: whole.index(stop)], "stop")


MISTAKES = [
    ('{"prompt": "x", "lenght": 3}', [], "prompts, line 2: unknown field 'lenght'; did you mean length?"),
    ('{"prompt": "x", "colour": 3}', [], "unknown field 'colour'; known here: id, length, prompt, seed, stop"),
    ('{"promt": "x"}', [], "line 2: not a JSON string, or an object with the string `prompt`: unknown field 'promt'"),
    ('{"prompt": "x", "seed": "3"}', [], 'prompts, line 2: seed is "3"; it must be a whole number'),
    ('{"prompt": "x", "seed": true}', [], "line 2: seed is true; it must be a whole number"),
    ('{"prompt": "x", "seed": -1}', [], "prompts, line 2: seed is -1; it must be at least 0"),
    ('{"prompt": "x", "length": -1}', [], "prompts, line 2: length is -1; it must be at least 0"),
    ('{"prompt": "x", "stop": ""}', [], "prompts, line 2: stop is ''; it must have"),
    ('{"prompt": "x", "stop": [3]}', [], "prompts, line 2: stop is neither a string nor a list of strings"),
    ('"Ω"', ["--encoding", "latin-1"], "prompts, line 2: the prompt has the character 'Ω', which latin-1 cannot write"),
]


@pytest.mark.parametrize(("line", "words", "sentence"), MISTAKES)
def test_a_mistake_in_a_line_names_it(capsys, line, words, sentence):
    Path("prompts").write_text(f'"good"\n{line}\n')
    capsys.readouterr()
    assert main(["generate", "bytes", "--prompts", "prompts", *words]) == 2
    told = capsys.readouterr()
    assert sentence in told.err and len(told.err.strip().splitlines()) == 1
    assert told.out == "", "nothing is written before every line is read"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["bytes", "--encoding", "klingon"], "no text encoding called 'klingon'"),
        (["bytes", "--encoding", "utf-16"], "--encoding utf-16 begins a text with a byte order mark"),
        (["lettered", "--encoding", "latin-1"], "lettered reads and writes Unicode characters"),
        (["recoded", "--encoding", "latin-1"], "recoded reads and writes Unicode characters"),
        (["bytes", "--encoding", "latin-1", "--prompt", "Ω"], "the prompt has the character 'Ω', which latin-1"),
        (["bytes", "--encoding", "latin-1", "--stop", "Ω"], "--stop has the character 'Ω', which latin-1"),
        (["bytes", "--prompt-file", "gone"], "--prompt-file gone cannot be read: No such file"),
        (["bytes", "--prompt-file", "text", "--prompt", "x"], "leave --prompt and --prompts out"),
        (["lettered", "--prompt-file", "text"], "text is not UTF-8 at byte 2"),
        (["bytes", "--raw", "--json"], "--raw writes the bytes of one text"),
        (["bytes", "--raw", "--samples", "2"], "--raw writes the bytes of one text"),
        (["bytes", "--samples", "0"], "--samples is 0; it must be between 1"),
    ],
)
def test_mistakes(capsys, words, sentence):
    assert main(["generate", *words]) == 2
    told = capsys.readouterr()
    assert sentence in told.err and len(told.err.strip().splitlines()) == 1
    assert told.out == ""
