"""Prompts that are not UTF-8, several samples of a prompt, and prompt files with settings in each line."""

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
def runs_folder(tmp_path_factory):
    """Runs on a Latin-1 text: `bytes` on its bytes, `recoded` on its UTF-8, `lettered` on its Unicode characters."""
    folder = tmp_path_factory.mktemp("prompts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CHARLADDER_CACHE", new_cache(folder / "cache"))
        Path("text").write_bytes(TEXT.encode("latin-1") * 200)
        for run, arguments in (
            ("bytes", []),
            ("recoded", ["--encoding", "latin-1"]),
            ("lettered", ["--encoding", "latin-1", "--alphabet", "letters"]),
        ):
            assert main(["train", "text", *TINY, "--run", run, *arguments]) == 0
    return folder


@pytest.fixture(autouse=True)
def in_runs_folder(runs_folder, monkeypatch):
    monkeypatch.chdir(runs_folder)


def generate_json(capsys, *arguments: str) -> dict:
    capsys.readouterr()
    assert main(["generate", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def generate_lines(capsys, *arguments: str) -> list[dict]:
    capsys.readouterr()
    assert main(["generate", *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.slow
def test_encoding_option_with_a_run_on_bytes(capsys):
    result = generate_json(capsys, "bytes", "--prompt", "Grö", "--length", "50", "--encoding", "latin-1")
    assert bytes(result["ids"]).decode("latin-1") == result["text"]
    assert any(byte >= 128 for byte in result["ids"])
    Path("prompt").write_bytes("Grö".encode("latin-1"))
    for arguments in (["--prompt-file", "prompt", "--encoding", "latin-1"], ["--prompt-file", "prompt"]):
        again = generate_json(capsys, "bytes", *arguments, "--length", "50")
        assert again["ids"] == result["ids"]
    assert "\ufffd" in again["text"], "read as UTF-8, because no encoding was given"
    stop = bytes(result["ids"][20:22]).decode("latin-1")
    cut = generate_json(capsys, "bytes", "--prompt", "Grö", "--length", "50", "--encoding", "latin-1", "--stop", stop)
    assert (cut["finish"], cut["text"]) == ("stop", result["text"][: result["text"].index(stop)])
    (line,) = generate_from_prompts(
        capsys, "bytes", [{"prompt": "Grö", "stop": stop}], "--length", "50", "--encoding", "latin-1"
    )
    assert line["ids"] == cut["ids"]


def generate_from_prompts(capsys, run: str, prompts: list, *arguments: str) -> list[dict]:
    Path("prompts").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    return generate_lines(capsys, run, "--prompts", "prompts", *arguments)


def test_raw_prints_only_the_bytes(capfdbinary):
    assert main(["generate", "bytes", "--prompt", "Grö", "--length", "50", "--encoding", "latin-1", "--json"]) == 0
    ids = json.loads(capfdbinary.readouterr().out)["ids"]
    assert main(["generate", "bytes", "--prompt", "Grö", "--length", "50", "--encoding", "latin-1", "--raw"]) == 0
    assert capfdbinary.readouterr().out == "Grö".encode("latin-1") + bytes(ids)
    assert main(["generate", "lettered", "--length", "20", "--json"]) == 0
    text = json.loads(capfdbinary.readouterr().out)["text"]
    assert main(["generate", "lettered", "--length", "20", "--raw"]) == 0
    assert capfdbinary.readouterr().out == text.encode()


@pytest.mark.parametrize("run", ["recoded", "lettered"])
def test_prompt_file_is_recoded_for_a_run_on_unicode(capsys, run):
    Path("prompt").write_bytes("Grö".encode("latin-1"))
    expected = generate_json(capsys, run, "--prompt", "Grö", "--length", "20")
    assert (
        generate_json(capsys, run, "--prompt-file", "prompt", "--encoding", "latin-1", "--length", "20")["ids"]
        == expected["ids"]
    )


def test_prompt_file_from_standard_input(capsys, monkeypatch):
    expected = generate_json(capsys, "bytes", "--prompt", "Gr", "--length", "20")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Gr")))
    assert generate_json(capsys, "bytes", "--prompt-file", "-", "--length", "20")["text"] == expected["text"]


def test_samples_differ_and_the_first_equals_a_single_text(capsys):
    single = generate_json(capsys, "lettered", "--prompt", "Ma", "--length", "20")
    result = generate_json(capsys, "lettered", "--prompt", "Ma", "--length", "20", "--samples", "5", "--together", "2")
    assert [sample["characters"] for sample in result["samples"]] == [20] * 5
    assert len({sample["text"] for sample in result["samples"]}) == 5
    assert result["samples"][0]["ids"] == single["ids"]
    assert result["characters"] == 100
    rows = generate_from_prompts(capsys, "lettered", ["und", "Ma"], "--length", "20", "--samples", "5")
    assert [(row["prompt"], row["sample"]) for row in rows] == [(p, n) for p in ("und", "Ma") for n in range(5)]
    assert [row["text"] for row in rows[5:]] == [sample["text"] for sample in result["samples"]]
    capsys.readouterr()
    assert main(["generate", "lettered", "--prompt", "Ma", "--length", "20", "--samples", "2"]) == 0
    first, second = (f"--- {n} of 2 ---\nMa{result['samples'][n - 1]['text']}\n" for n in (1, 2))
    assert capsys.readouterr().out == first + second


def test_seed_length_and_stop_of_a_line(capsys):
    full_text = generate_json(capsys, "lettered", "--prompt", "Ma", "--length", "40", "--seed", "7")["text"]
    stop = full_text[10:12]
    rows = generate_from_prompts(
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
    assert rows[0]["text"] == full_text.partition("ö")[0]
    assert rows[1]["text"] != full_text, "the second text of this seed and prompt"
    assert (rows[1]["id"], rows[2]["characters"]) == ({"any": 1}, 3)
    (row,) = generate_from_prompts(capsys, "lettered", [{"prompt": "Ma", "seed": 7, "length": 40, "stop": stop}])
    assert (row["text"], row["finish"]) == (full_text[: full_text.index(stop)], "stop")


USER_ERRORS = [
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


@pytest.mark.parametrize(("line", "arguments", "message"), USER_ERRORS)
def test_error_names_the_line(capsys, line, arguments, message):
    Path("prompts").write_text(f'"good"\n{line}\n')
    capsys.readouterr()
    assert main(["generate", "bytes", "--prompts", "prompts", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.strip().splitlines()) == 1
    assert captured.out == "", "nothing is written before every line is read"


@pytest.mark.parametrize(
    ("arguments", "message"),
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
def test_user_errors(capsys, arguments, message):
    assert main(["generate", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.strip().splitlines()) == 1
    assert captured.out == ""
