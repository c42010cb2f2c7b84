"""Alphabets: how text becomes numbers. An alphabet is a pair of exact inverses, saved with every run."""

import codecs
from dataclasses import dataclass

import numpy as np

from charladder.errors import BadInput

LARGEST = 256  # ids are stored in one byte each


@dataclass(frozen=True)
class Alphabet:
    """Bytes (`letters` empty: ids are byte values), or the Unicode characters in `letters` (ids are places).

    With bytes nothing is unknown; with letters a character outside raises BadInput and is named.
    """

    letters: str = ""

    def __post_init__(self) -> None:
        if len(set(self.letters)) != len(self.letters):
            raise BadInput("an alphabet names a letter twice; give each letter once")
        if len(self.letters) > LARGEST:
            raise BadInput(
                f"the text has {len(self.letters)} different characters, more than the {LARGEST} a letter "
                "alphabet holds; use --text.alphabet bytes"
            )

    @property
    def kind(self) -> str:
        return "letters" if self.letters else "bytes"

    @property
    def size(self) -> int:
        return len(self.letters) or 256

    def encode(self, data: bytes, where: str = "the text") -> np.ndarray:
        """The ids of UTF-8 `data`, as uint8 of shape (characters,).

        Raises BadInput for a letter outside the alphabet and, with letters, for data that is not UTF-8.
        """
        if not self.letters:
            return np.frombuffer(data, np.uint8)
        text = decode_utf8(data, where)
        table = {letter: place for place, letter in enumerate(self.letters)}
        try:
            return np.fromiter((table[letter] for letter in text), np.uint8, len(text))
        except KeyError as unknown:
            letter = unknown.args[0]
            raise BadInput(
                f"{where} has the character {letter!r} at position {text.index(letter)}, which is not among the "
                f"{self.size} letters of this alphabet; remove it, or train with --text.alphabet bytes"
            ) from None

    def decode(self, ids: np.ndarray) -> bytes:
        """The bytes that `ids` spell; with letters, their UTF-8."""
        if not self.letters:
            return np.asarray(ids, np.uint8).tobytes()
        return "".join(self.letters[i] for i in ids).encode()

    def unicode_characters(self, ids: np.ndarray) -> int | None:
        """How many Unicode characters `ids` spell; None for bytes that are not UTF-8.

        A character cut by the start counts as none, one cut by the end as one.
        """
        if self.letters:
            return len(ids)
        begins = np.flatnonzero((ids[:4] & 0xC0) != 0x80)
        try:
            codecs.getincrementaldecoder("utf-8")().decode(ids[begins[0] if len(begins) else 0 :].tobytes())
        except UnicodeDecodeError:
            return None
        return int(np.count_nonzero((ids & 0xC0) != 0x80))


def decode_utf8(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{where} is not UTF-8 at byte {error.start}, and letters are Unicode characters; "
            "use --text.alphabet bytes, which takes any file"
        ) from None


def learn_letters(data: bytes, where: str = "the text") -> Alphabet:
    """The letter alphabet of UTF-8 `data`: its different characters, in code point order."""
    letters = "".join(sorted(set(decode_utf8(data, where))))
    if not letters:
        raise BadInput(f"{where} is empty, so no alphabet can be learned from it")
    return Alphabet(letters)
