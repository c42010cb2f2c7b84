import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charladder.errors import UserError
from charladder.text import Alphabet, learn_letters


@given(st.binary())
def test_bytes_round_trip(data):
    assert Alphabet().decode(Alphabet().encode(data)) == data


@given(st.text(min_size=1, max_size=200))
def test_letters_round_trip(text):
    data = text.encode()
    alphabet = learn_letters(data)
    ids = alphabet.encode(data)
    assert alphabet.decode(ids) == data
    assert len(ids) == len(text)
    assert alphabet.size == len(set(text))


@pytest.mark.parametrize(
    ("size", "dtype"), [(1, np.uint8), (256, np.uint8), (257, np.uint16), (65536 - 2048, np.uint16)]
)
def test_ids_use_the_narrowest_dtype(size, dtype):
    letters = "".join(chr(point) for point in range(size + 2048) if not 0xD800 <= point < 0xE000)[:size]
    alphabet = Alphabet(letters)
    ids = alphabet.encode(letters.encode())
    assert (alphabet.dtype, ids.dtype, int(ids[-1])) == (dtype, dtype, size - 1)


def test_unknown_letter_error_names_letter_and_position():
    with pytest.raises(UserError, match=r"'z' at position 2"):
        learn_letters(b"abc").encode(b"abz")


def test_letters_require_utf8():
    with pytest.raises(UserError, match="not UTF-8 at byte 1"):
        learn_letters(b"a\xff")


def test_too_many_letters_are_refused():
    with pytest.raises(UserError, match="300 different characters"):
        learn_letters("".join(map(chr, range(1000, 1300))).encode())


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"abc", 3), ("äöü".encode(), 3), ("äöü".encode()[1:], 2), ("äö".encode()[:-1], 2), (b"a\xffb", None),
        ("😀a".encode()[1:], 1), ("😀a".encode()[3:], 1), (b"\x80" * 4 + b"a", None),
    ],
)  # fmt: skip
def test_unicode_characters(data, count):
    assert Alphabet().unicode_characters(np.frombuffer(data, np.uint8)) == count
