"""The commands that `train` and `refit` print at their end work as printed."""

import shlex

import pytest

from charladder.cli.main import main
from charladder.cli.next_steps import find_prompt
from charladder.text import open_corpus

TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "2", "--run", "my run"]
TEXTS = {
    "english": (b"A ladder has layers, and each of them says what it sees. ", []),
    "quotes": (b"\n\n  -- 'quoted' \"$HOME\" `x` \\ *\n", ["--alphabet", "letters"]),
    "cyrillic": ("Лестница стоит и говорит.\n".encode(), ["--alphabet", "letters", "--test", "0"]),
    "text8": (b" a ladder has layers and sees", ["--alphabet", "text8", "--valid", "0", "--test", "0"]),
    "latin-1": ("Größe und Maß der Leiter. ".encode("latin-1"), []),
    "not text": (bytes(range(128, 256)), ["--valid", "0"]),
}


def printed_commands(out: str) -> list[str]:
    """The lines from `next:` on that are commands."""
    lines = out[out.index("next:") :].removeprefix("next:").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("charladder ")]


SLOW = {"english", "latin-1", "not text"}
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in TEXTS]


@pytest.mark.parametrize("name", NAMES)
def test_every_printed_command_works(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    data, arguments = TEXTS[name]
    (tmp_path / "text").write_bytes(data * 40)
    assert main(["train", "text", *TINY, *arguments]) == 0
    commands = printed_commands(capsys.readouterr().out)
    names = [shlex.split(command)[1] for command in commands]
    assert names == ["generate", *([] if "--valid" in arguments and "--test" in arguments else ["evaluate"]), "train"]
    for command in commands:
        program, *arguments_of_command = shlex.split(command)
        assert program == "charladder"
        assert main(arguments_of_command) == 0, (command, capsys.readouterr().err)
    capsys.readouterr()
    assert main(["refit", "my run", "--steps", "1"]) == 0
    (command,) = printed_commands(capsys.readouterr().out)
    assert main(shlex.split(command)[1:]) == 0


@pytest.mark.parametrize(
    ("data", "prompt"),
    [
        (b"\n  \n---\n\n# A title of several words, and more\n", "# A title of several"),
        (b"no_blank_in_this_line_at_all", "no_blank_in_this_line_at"),
        ("größer\tnoch".encode(), "größer"),
        (b"caf\xe9 au lait", "caf"),
        (b"\xe9t\xe9 and more", ""),
        (b"...\n\x00\x01", ""),
    ],
)
def test_prompt_is_the_beginning_of_the_text(tmp_path, data, prompt):
    (tmp_path / "text").write_bytes(data)
    assert find_prompt(open_corpus(str(tmp_path / "text"))) == prompt


def test_prompt_can_be_encoded_by_the_terminal(tmp_path):
    (tmp_path / "text").write_text("Лестница\nA ladder\n")
    corpus = open_corpus(str(tmp_path / "text"))
    assert find_prompt(corpus) == "Лестница"
    assert find_prompt(corpus, "ascii") == "A ladder"
