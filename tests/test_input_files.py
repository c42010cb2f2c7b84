"""Input files must be regular and have a size limit, and their TOML is parsed in bounded time."""

import os
import socket
import tomllib
from pathlib import Path

import pytest

from charladder import input_files
from charladder.errors import UserError
from charladder.input_files import parse_toml, read_bytes


def test_a_file_above_the_size_limit_is_refused(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"1234")
    assert read_bytes(path, 4) == b"1234"
    with pytest.raises(UserError, match=r"file has 4 bytes, and is not read: at most 3 are"):
        read_bytes(path, 3)
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match="1,099,511,627,776 bytes, and is not read"):
        read_bytes(path)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "other")


def test_special_files_are_refused_without_waiting(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    for name in ("pipe", "/dev/zero", "."):
        with pytest.raises(UserError, match="is not a regular file"):
            read_bytes(Path(name))
    with socket.socket(socket.AF_UNIX) as one, pytest.raises(OSError):
        one.bind("socket")
        read_bytes(Path("socket"))


LONG_KEYS = [
    ".".join(["a"] * 9) + " = 1",
    " . ".join(['"a"', "b"] * 5) + " = 1",
    "[" + ".".join(["a"] * 9) + "]",
    "x = {" + ".".join(["'a'"] * 9) + " = 1}",
]


@pytest.mark.parametrize("text", LONG_KEYS)
def test_key_of_many_parts_is_refused_before_parsing(text, monkeypatch):
    assert tomllib.loads(text)

    def never(_text):
        raise AssertionError("the time of tomllib grows with the square of the parts")

    monkeypatch.setattr(input_files.tomllib, "loads", never)
    with pytest.raises(UserError, match="has a key with more than 8 parts, and is not read"):
        parse_toml(text.encode(), "x.toml")


def test_values_may_have_any_number_of_dots():
    text = 'a = "' + "x.y." * 100 + '"\nb = [1.5, 2.5]\n[c.d]\ne.f = "\\"a.a.a.a.a.a.a.a.a.a"\n'
    assert parse_toml(text.encode(), "x.toml") == tomllib.loads(text)
