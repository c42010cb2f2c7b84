"""Alphabets: the mapping between text and ids. `encode` and `decode` are exact inverses."""

import codecs
import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from charladder.errors import UserError
from charladder.text.memory_map import release_pages

MAX_UINT8_LETTERS, MAX_UINT16_LETTERS = 256, 65536  # whose ids fit in a uint8, a uint16
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
TEXT8_LETTERS = " " + string.ascii_lowercase
UNKNOWN_POLICIES = ("error", "replace", "drop")


@dataclass(frozen=True)
class Alphabet:
    """Bytes (`letters` is empty: ids are byte values), or the Unicode characters in `letters` (ids are indices).

    With bytes there are no unknown letters. With letters, a character outside the alphabet is an error, replaced by
    REPLACEMENT, or dropped.
    """

    letters: str = ""

    def __post_init__(self) -> None:
        if len(set(self.letters)) != len(self.letters):
            raise UserError("an alphabet has a letter twice; give each letter once")
        if len(self.letters) > MAX_UINT16_LETTERS:
            raise UserError(f"an alphabet has {len(self.letters)} letters; it holds {MAX_UINT16_LETTERS} at most")
        if any("\ud800" <= letter <= "\udfff" for letter in self.letters):
            raise UserError("an alphabet has half a surrogate pair as a letter; give whole Unicode characters")

    @property
    def kind(self) -> str:
        return "letters" if self.letters else "bytes"

    @property
    def size(self) -> int:
        return len(self.letters) or 256

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        return np.uint8 if self.size <= MAX_UINT8_LETTERS else np.uint16

    @cached_property
    def ids_by_code_point_P(self) -> np.ndarray:
        """The id of every code point, int32; -1 for code points outside the alphabet."""
        ids_P = np.full(0x110000, -1, np.int32)
        ids_P[code_points(self.letters)] = np.arange(len(self.letters))
        return ids_P

    def check_unknown_policy(self, unknown: str) -> None:
        """Raises UserError if `unknown` is not a policy, or is one that this alphabet does not support."""
        if unknown not in UNKNOWN_POLICIES:
            raise UserError(field="unknown", value=unknown, rule=f"it must be one of {', '.join(UNKNOWN_POLICIES)}")
        if unknown == "replace" and self.letters and REPLACEMENT not in self.letters:
            raise UserError(
                field="unknown", value=unknown,
                rule="only an alphabet learned with `replace` has the replacement letter; use `drop`",
            )  # fmt: skip

    def encode(self, data: bytes, where: str = "the text", unknown: str = "error") -> np.ndarray:
        """The ids of UTF-8 `data`, of shape (characters,) and `dtype`. where: the name of the data, for messages.

        Raises UserError for a letter outside the alphabet (unless `unknown` is replace or drop), and, with letters,
        for data that is not UTF-8.
        """
        if not self.letters:
            return np.frombuffer(data, np.uint8)
        self.check_unknown_policy(unknown)
        text = _decode_utf8(data, where)
        ids = self.ids_by_code_point_P[code_points(text)]
        outside = ids < 0
        if outside.any():
            if unknown == "error":
                position = int(np.argmax(outside))
                raise self.unknown_letter_error(text[position], where, f"position {position}")
            replacement = self.ids_by_code_point_P[ord(REPLACEMENT)]
            ids = ids[~outside] if unknown == "drop" else np.where(outside, replacement, ids)
        return ids.astype(self.dtype)

    def unknown_letter_error(self, letter: str, where: str, position: str) -> UserError:
        return UserError(
            f"{where} has the character {letter!r} at {position}, which is not among the {self.size} letters of this "
            "alphabet", rule="remove it, set `unknown` to drop, or train with the alphabet bytes"
        )  # fmt: skip

    def decode(self, ids: np.ndarray) -> bytes:
        """The bytes of `ids`; with letters, their UTF-8."""
        if not self.letters:
            return np.asarray(ids, np.uint8).tobytes()
        return "".join(self.letters[i] for i in ids).encode()

    def unicode_characters(self, ids: np.ndarray) -> int | None:
        """The number of Unicode characters in `ids`; None for bytes that are not UTF-8.

        A character whose first byte is missing is not counted; one whose last byte is missing is.
        """
        if self.letters:
            return len(ids)
        starts = np.flatnonzero((ids[:4] & 0xC0) != 0x80)
        decoder, count = codecs.getincrementaldecoder("utf-8")(), 0
        try:
            for begin in range(int(starts[0]) if len(starts) else 0, len(ids), 1 << 20):
                chunk = ids[begin : begin + (1 << 20)]
                decoder.decode(chunk.tobytes())
                count += int(np.count_nonzero((chunk & 0xC0) != 0x80))
                release_pages(ids)
        except UnicodeDecodeError:
            return None
        return count


def code_points(text: str) -> np.ndarray:
    """The code points of a text, uint32, shape (characters,)."""
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def _decode_utf8(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(not_utf8_message(where, error.start)) from None


def not_utf8_message(where: str, position: int) -> str:
    return (
        f"{where} is not UTF-8 at byte {position}, and letters are Unicode characters; "
        "give its encoding, or use the alphabet bytes, which takes any file"
    )


def learn_letters(data: bytes, where: str = "the text", unknown: str = "error") -> Alphabet:
    """The letter alphabet of UTF-8 `data`: its distinct characters, in code point order."""
    text = _decode_utf8(data, where)
    return choose_letters({letter: text.count(letter) for letter in set(text)}, where, unknown)


def choose_letters(
    counts: Mapping[str, int], where: str = "the text", unknown: str = "error", max_letters: int = MAX_UINT8_LETTERS
) -> Alphabet:
    """An alphabet of at most `max_letters` letters, in code point order. counts: how often each occurs in the text.

    With `unknown` replace the alphabet includes REPLACEMENT. If the text has too many letters, the rarest are left out.
    Raises UserError for too many letters if `unknown` is error, and for an empty text.
    """
    if not counts:
        raise UserError(f"{where} is empty, so no alphabet can be learned from it")
    chosen = set(counts) | ({REPLACEMENT} if unknown == "replace" else set())
    if len(chosen) > max_letters:
        if unknown == "error":
            wider = "" if max_letters == MAX_UINT16_LETTERS else f" the alphabet unicode holds {MAX_UINT16_LETTERS},"
            raise UserError(
                f"{where} has {len(counts)} different characters, more than the {max_letters} a letter alphabet holds;"
                f"{wider} the alphabet bytes takes any text, and `unknown` replace or drop gives up the rarest"
            )
        reserved = {REPLACEMENT} & chosen if unknown == "replace" else set()
        ranked = sorted(set(counts) - reserved, key=lambda letter: (-counts[letter], letter))
        chosen = set(ranked[: max_letters - len(reserved)]) | reserved
    return Alphabet("".join(sorted(chosen)))
