"""Alphabets: how text becomes numbers. An alphabet is a pair of exact inverses, saved with every run."""

import codecs
import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from charladder.errors import UserError
from charladder.text.memory_map import release

SMALL, LARGE = 256, 65536  # letters whose ids fit one byte, two bytes
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
TEXT8 = " " + string.ascii_lowercase
POLICIES = ("error", "replace", "drop")


@dataclass(frozen=True)
class Alphabet:
    """Bytes (`letters` empty: ids are byte values), or the Unicode characters in `letters` (ids are places).

    With bytes nothing is unknown; with letters a character outside is an error, replaced by UNKNOWN, or dropped.
    """

    letters: str = ""

    def __post_init__(self) -> None:
        if len(set(self.letters)) != len(self.letters):
            raise UserError("an alphabet names a letter twice; give each letter once")
        if len(self.letters) > LARGE:
            raise UserError(f"an alphabet has {len(self.letters)} letters; it holds {LARGE} at most")
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
        return np.uint8 if self.size <= SMALL else np.uint16

    @cached_property
    def table_P(self) -> np.ndarray:
        """The id of every code point, int32; -1 for those outside."""
        table_P = np.full(0x110000, -1, np.int32)
        table_P[code_points(self.letters)] = np.arange(len(self.letters))
        return table_P

    def check_policy(self, unknown: str) -> None:
        """Raises UserError where this alphabet cannot do what is asked with unknown letters."""
        if unknown not in POLICIES:
            raise UserError(field="unknown", value=unknown, rule=f"it must be one of {', '.join(POLICIES)}")
        if unknown == "replace" and self.letters and UNKNOWN not in self.letters:
            raise UserError(
                field="unknown", value=unknown,
                rule="only an alphabet learned with `replace` has the replacement letter; use `drop`",
            )  # fmt: skip

    def encode(self, data: bytes, where: str = "the text", unknown: str = "error") -> np.ndarray:
        """The ids of UTF-8 `data`, of shape (characters,) and `dtype`.

        Raises UserError for a letter outside the alphabet (unless `unknown` is replace or drop), and, with letters,
        for data that is not UTF-8.
        """
        if not self.letters:
            return np.frombuffer(data, np.uint8)
        self.check_policy(unknown)
        text = decode_utf8(data, where)
        ids = self.table_P[code_points(text)]
        outside = ids < 0
        if outside.any():
            if unknown == "error":
                place = int(np.argmax(outside))
                raise self.unknown_letter_error(text[place], where, f"position {place}")
            ids = ids[~outside] if unknown == "drop" else np.where(outside, self.table_P[ord(UNKNOWN)], ids)
        return ids.astype(self.dtype)

    def unknown_letter_error(self, letter: str, where: str, place: str) -> UserError:
        return UserError(
            f"{where} has the character {letter!r} at {place}, which is not among the {self.size} letters of this "
            "alphabet", rule="remove it, set `unknown` to drop, or train with the alphabet bytes"
        )  # fmt: skip

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
        decoder, count = codecs.getincrementaldecoder("utf-8")(), 0
        try:
            for place in range(int(begins[0]) if len(begins) else 0, len(ids), 1 << 20):
                chunk = ids[place : place + (1 << 20)]
                decoder.decode(chunk.tobytes())
                count += int(np.count_nonzero((chunk & 0xC0) != 0x80))
                release(ids)
        except UnicodeDecodeError:
            return None
        return count


def code_points(text: str) -> np.ndarray:
    """uint32, shape (characters,)."""
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def decode_utf8(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(not_utf8(where, error.start)) from None


def not_utf8(where: str, place: int) -> str:
    return (
        f"{where} is not UTF-8 at byte {place}, and letters are Unicode characters; "
        "give its encoding, or use the alphabet bytes, which takes any file"
    )


def learn_letters(data: bytes, where: str = "the text", unknown: str = "error") -> Alphabet:
    """The letter alphabet of UTF-8 `data`: its different characters, in code point order."""
    text = decode_utf8(data, where)
    return choose_letters({letter: text.count(letter) for letter in set(text)}, where, unknown)


def choose_letters(
    counts: Mapping[str, int], where: str = "the text", unknown: str = "error", most: int = SMALL
) -> Alphabet:
    """An alphabet of at most `most` letters for a text in which each occurs so often, in code point order.

    With `unknown` replace it has UNKNOWN too, to stand for others. Where there are more letters than `most`, the
    rarest are left out if `unknown` says what to do with them. Raises UserError otherwise, and for an empty text.
    """
    if not counts:
        raise UserError(f"{where} is empty, so no alphabet can be learned from it")
    chosen = set(counts) | ({UNKNOWN} if unknown == "replace" else set())
    if len(chosen) > most:
        if unknown == "error":
            wider = "" if most == LARGE else f" the alphabet unicode holds {LARGE},"
            raise UserError(
                f"{where} has {len(counts)} different characters, more than the {most} a letter alphabet holds;"
                f"{wider} the alphabet bytes takes any text, and `unknown` replace or drop gives up the rarest"
            )
        reserved = {UNKNOWN} & chosen if unknown == "replace" else set()
        ranked = sorted(set(counts) - reserved, key=lambda letter: (-counts[letter], letter))
        chosen = set(ranked[: most - len(reserved)]) | reserved
    return Alphabet("".join(sorted(chosen)))
