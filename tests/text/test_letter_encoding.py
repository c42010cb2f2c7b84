"""Letter alphabets over whole texts: learned, saved, met by other texts."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charladder.errors import UserError
from charladder.text import Alphabet, letter_encoding, open_corpus
from charladder.text.alphabet import REPLACEMENT, TEXT8_LETTERS, choose_letters


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@given(texts=st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=5), stretch=st.integers(1, 9))
def test_unicode_letters_round_trip(tmp_path_factory, texts, stretch):
    folder = tmp_path_factory.mktemp("files")
    names = [str(folder / f"{number}") for number in range(len(texts))]
    for name, text in zip(names, texts, strict=True):
        Path(name).write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(letter_encoding, "BLOCK_BYTES", stretch)
        corpus = open_corpus(names, "unicode")
    assert corpus.alphabet.decode(corpus.ids_N).decode() == "".join(texts)
    assert corpus.ends_F.tolist() == np.cumsum([len(text) for text in texts]).tolist()
    assert corpus.alphabet.letters == "".join(sorted(set("".join(texts))))


def test_more_than_256_letters_are_two_bytes_each():
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))
    Path("text").write_text(text)
    corpus = open_corpus("text", "unicode")
    assert (corpus.ids_N.dtype, len(corpus.ids_N)) == (np.uint16, 3000)
    assert corpus.alphabet.decode(corpus.ids_N).decode() == text
    with pytest.raises(UserError, match=r"text has 3000 different characters.* the alphabet unicode holds 65536"):
        open_corpus("text", "letters")
    corpus = open_corpus("text", "letters", unknown="replace")
    assert (corpus.alphabet.size, corpus.unknown) == (256, 3000 - 255)
    assert REPLACEMENT in corpus.alphabet.letters
    corpus = open_corpus("text", "letters", unknown="drop")
    assert (corpus.alphabet.size, len(corpus.ids_N), corpus.unknown) == (256, 256, 3000 - 256)


def test_rarest_letters_are_left_out():
    assert choose_letters({"a": 5, "b": 1, "c": 3}, unknown="drop", max_letters=2).letters == "ac"
    assert choose_letters({"a": 5, "b": 1, "c": 3}, unknown="replace", max_letters=3).letters == "ac" + REPLACEMENT
    with pytest.raises(UserError, match="more than the 2"):
        choose_letters({"a": 5, "b": 1, "c": 3}, max_letters=2)


def test_the_27_letters_of_text8():
    Path("clean").write_text("a ladder leans on the wall")
    assert open_corpus("clean", "text8").alphabet.letters == TEXT8_LETTERS
    Path("text").write_text("A ladder.\n")
    with pytest.raises(UserError, match=r"text has the character 'A' at byte 0, which is not among the 27 letters"):
        open_corpus("text", "text8")
    dropped = open_corpus("text", "text8", unknown="drop")
    assert dropped.alphabet.decode(dropped.ids_N) == b" ladder"
    assert dropped.unknown == 3
    replaced = open_corpus("text", "text8", unknown="replace")
    assert replaced.alphabet.decode(replaced.ids_N).decode() == "\ufffd ladder\ufffd\ufffd"
    assert replaced.alphabet.size == 28


def test_unknown_letter_error_names_file_and_byte():
    Path("one").write_text("ä ladder")
    Path("two").write_text("ä lädder ß")
    alphabet = open_corpus("one", "letters").alphabet
    with pytest.raises(UserError, match="two has the character 'ß' at byte 11,"):
        open_corpus(["one", "two"], alphabet)
    Path("three").write_bytes(b"ok \xff")
    with pytest.raises(UserError, match=r"three is not UTF-8 at byte 3, .*its encoding"):
        open_corpus(["one", "three"], "letters")
    Path("cut").write_bytes("ladder ä".encode()[:-1])
    with pytest.raises(UserError, match="cut is not UTF-8 at byte 7"):
        open_corpus("cut", "letters")


@pytest.mark.parametrize("stretch", range(1, 9))
def test_invalid_utf8_is_located_at_any_block_boundary(stretch, monkeypatch):
    monkeypatch.setattr(letter_encoding, "BLOCK_BYTES", stretch)
    for number, data in enumerate((b"\xff", "a😀".encode() + b"\xff", "ä".encode() + b"\xf0\x9f\x98(")):
        one, two = f"one{number}", f"two{number}"
        Path(one).write_text("ä")
        Path(two).write_bytes(data)
        with pytest.raises(UserError, match=f"^{two} is not UTF-8 at byte {(0, 5, 2)[number]},"):
            open_corpus([one, two], "letters")


def test_file_ends_are_right_when_letters_are_dropped():
    for name, text in (("a", "xxaxx"), ("b", "xx"), ("c", "bä")):
        Path(name).write_text(text)
    corpus = open_corpus(["a", "b", "c"], Alphabet("abä"), unknown="drop")
    assert corpus.alphabet.decode(corpus.ids_N).decode() == "abä"
    assert corpus.ends_F.tolist() == [1, 1, 3]


def test_replace_requires_the_replacement_letter():
    Path("text").write_text("abc")
    with pytest.raises(UserError, match="only an alphabet learned with `replace` has"):
        open_corpus("text", Alphabet("ab"), unknown="replace")
    assert open_corpus("text", Alphabet("ab" + REPLACEMENT), unknown="replace").unknown == 1
    with pytest.raises(UserError, match="must be one of error, replace, drop"):
        open_corpus("text", Alphabet("ab"), unknown="ignore")


def test_a_text_without_any_letter_of_the_alphabet_is_refused():
    Path("text").write_text("123")
    with pytest.raises(UserError, match="text has no letter of this alphabet"):
        open_corpus("text", "text8", unknown="drop")


def test_encoding_and_letters_together():
    Path("text").write_bytes("Übermut tut selten gut".encode("cp1252"))
    with pytest.raises(UserError, match=r"not UTF-8 at byte 0.* give its encoding"):
        open_corpus("text", "letters")
    corpus = open_corpus("text", "letters", "cp1252")
    assert corpus.alphabet.decode(corpus.ids_N).decode() == "Übermut tut selten gut"


def test_text_is_encoded_once_and_again_after_truncation(monkeypatch):
    Path("text").write_text("a ladder")
    first = open_corpus("text", "letters")
    with monkeypatch.context() as patch:
        patch.setattr(letter_encoding, "_encode_blocks", None)
        assert np.array_equal(open_corpus("text", "letters").ids_N, first.ids_N)
    path = Path(str(first.ids_N.filename))
    os.truncate(path, 2)
    assert len(open_corpus("text", "letters").ids_N) == 8
