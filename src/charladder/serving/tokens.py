"""Text of requests as symbols of the alphabet, and symbols as text of responses.

Shapes: N symbols.
"""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from charladder.errors import UserError
from charladder.text import Alphabet


class Tokenizer:
    """An alphabet, and the run's rule for letters outside it."""

    def __init__(self, alphabet: Alphabet, unknown: str) -> None:
        self.alphabet, self.unknown = alphabet, unknown

    def encode(self, text: str, name: str) -> list[int]:
        """The ids of a request's field `name`. Raises UserError for half a surrogate pair and for unknown letters."""
        data = _encode_utf8(text, name)
        try:
            return self.alphabet.encode(data, name, self.unknown).tolist()
        except UserError as error:
            raise UserError(error.problem, field=name, rule="leave it out") from None

    def encode_exact(self, text: str, name: str) -> list[int] | None:
        """Ids that decode to exactly this text; None if it has a letter outside the alphabet. Raises UserError for half
        a surrogate pair."""
        data = _encode_utf8(text, name)
        if self.alphabet.letters and any(self.alphabet.ids_by_code_point_P[ord(letter)] < 0 for letter in text):
            return None
        return self.alphabet.encode(data, name).tolist()

    def check_ids(self, ids: Sequence[int], name: str) -> list[int]:
        """The same ids. Raises UserError for one outside the alphabet."""
        if min(ids, default=0) < 0 or max(ids, default=0) >= self.alphabet.size:
            wrong = next(symbol for symbol in ids if not 0 <= symbol < self.alphabet.size)
            problem = f"{name} has the token {wrong} at position {ids.index(wrong)}"
            raise UserError(problem, field=name, rule=f"the tokens are 0 to {self.alphabet.size - 1}")
        return list(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are not UTF-8 become replacement characters."""
        return self.alphabet.decode(np.array(ids, np.int64)).decode("utf-8", "replace")

    def offsets(self, text: str) -> list[int]:
        """For every symbol of an encoded text, the index of its code point."""
        if self.alphabet.letters:
            points_N = np.frombuffer(text.encode("utf-32-le"), np.uint32)
            known_N = self.alphabet.ids_by_code_point_P[points_N] >= 0
            return np.flatnonzero(known_N | (self.unknown != "drop")).tolist()
        data_N = np.frombuffer(text.encode(), np.uint8)
        return (np.cumsum((data_N & 0xC0) != 0x80) - 1).tolist()

    def token_string(self, symbol: int, byte_prefix: str = "bytes:") -> str:
        """A symbol in OpenAI's notation: a byte that is not a character is `bytes:\\xe2`."""
        if self.alphabet.letters:
            return self.alphabet.letters[symbol]
        return chr(symbol) if symbol < 128 else f"{byte_prefix}\\x{symbol:02x}"


def _encode_utf8(text: str, name: str) -> bytes:
    """Raises UserError for half a surrogate pair."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{name} has half a surrogate pair", field=name, rule="send whole characters") from None


@dataclass(frozen=True)
class DecodedText:
    """The text of symbols. marks: for each code point 1 if the symbol that completes it is marked, else 0. offsets: for
    each symbol the index of its code point in the whole text."""

    text: str
    marks: str
    offsets: list[int]


class IncrementalDecoder:
    """Decodes symbols in parts, as whole characters; bytes that are not UTF-8 become replacement characters. offset:
    the number of code points before."""

    def __init__(self, tokenizer: Tokenizer, offset: int = 0) -> None:
        self.alphabet, self.length = tokenizer.alphabet, offset
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, ids: Sequence[int], marks: Sequence[bool], last: bool) -> DecodedText:
        if not self.alphabet.letters and max(ids, default=0) < 128 and not self.utf8.getstate()[0]:
            return self._add_ascii(bytes(ids).decode(), marks)
        letters, text, marked, offsets = self.alphabet.letters, "", "", []
        for symbol, mark in zip(ids, marks, strict=True):
            piece = self.utf8.decode(letters[symbol].encode() if letters else bytes((symbol,)))
            text += piece
            marked += ("1" if mark else "0") * len(piece)
            complete = piece and not self.utf8.getstate()[0]
            offsets.append(self.length + len(text) - (1 if complete else 0))
        if last:
            piece = self.utf8.decode(b"", True)
            text, marked = text + piece, marked + "0" * len(piece)
        self.length += len(text)
        return DecodedText(text, marked, offsets)

    def _add_ascii(self, text: str, marks: Sequence[bool]) -> DecodedText:
        """The fast path for ASCII: each symbol is a character."""
        begin, self.length = self.length, self.length + len(text)
        return DecodedText(text, "".join(["1" if mark else "0" for mark in marks]), list(range(begin, self.length)))
