"""Conversion of other text encodings to UTF-8, in chunks. The encoding of a file is never guessed."""

import codecs
from collections.abc import Iterator

from charladder.errors import UserError


def find_codec(encoding: str) -> codecs.CodecInfo | None:
    """The codec of a text encoding; None for UTF-8, which needs no conversion. Raises UserError for an unknown name."""
    try:
        codec = codecs.lookup(encoding)
        encodes_names = codec.name in ("idna", "punycode")  # they cannot decode a text in chunks
        if encodes_names or not codec._is_text_encoding or codec.incrementaldecoder is None:  # type: ignore[attr-defined]
            raise LookupError
        codec.incrementaldecoder()
    except (LookupError, ValueError):
        raise UserError(
            f"there is no text encoding called {encoding!r}; utf-8, latin-1, cp1252, utf-16, shift_jis are some"
        ) from None
    return None if codec.name == "utf-8" else codec


def recode_to_utf8(content: Iterator[bytes], codec: codecs.CodecInfo, name: str) -> Iterator[bytes]:
    """Yields `content` as UTF-8, with unchanged line ends. Raises UserError with the position of an invalid byte."""
    decoder = codec.incrementaldecoder()
    done = 0

    def decode(chunk: bytes, final: bool) -> bytes:
        undecoded = decoder.getstate()[0]
        pending = len(undecoded) if isinstance(undecoded, bytes) else 0
        try:
            return decoder.decode(chunk, final).encode()
        except UnicodeError as error:
            position = done - pending + error.start if isinstance(error, UnicodeDecodeError) else done
            other = "utf-16-le or utf-16-be, if it has no mark at its start" if codec.name == "utf-16" else "another"
            raise UserError(f"{name} is not {codec.name} at byte {position}; give {other} as its encoding") from None

    for chunk in content:
        yield decode(chunk, False)
        done += len(chunk)
    yield decode(b"", True)
