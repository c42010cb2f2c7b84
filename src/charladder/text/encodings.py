"""Encodings: files in another than UTF-8 are recoded, a piece at a time; which one it is, is never guessed."""

import codecs
from collections.abc import Iterator

from charladder.errors import UserError


def find_codec(encoding: str) -> codecs.CodecInfo | None:
    """The codec of a text encoding; None for UTF-8, whose bytes stay as they are. Raises UserError for no encoding."""
    try:
        codec = codecs.lookup(encoding)
        whole_names = codec.name in ("idna", "punycode")  # not of texts, and not to be decoded in pieces
        if whole_names or not codec._is_text_encoding or codec.incrementaldecoder is None:  # type: ignore[attr-defined]
            raise LookupError
        codec.incrementaldecoder()
    except (LookupError, ValueError):
        raise UserError(
            f"there is no text encoding called {encoding!r}; utf-8, latin-1, cp1252, utf-16, shift_jis are some"
        ) from None
    return None if codec.name == "utf-8" else codec


def recode_to_utf8(content: Iterator[bytes], codec: codecs.CodecInfo, name: str) -> Iterator[bytes]:
    """`content` as UTF-8. Line ends stay as they are. Raises UserError that names the byte which is not in `codec`."""
    decoder = codec.incrementaldecoder()
    seen = 0

    def decode(chunk: bytes, final: bool) -> bytes:
        waiting = decoder.getstate()[0]
        held = len(waiting) if isinstance(waiting, bytes) else 0
        try:
            return decoder.decode(chunk, final).encode()
        except UnicodeError as error:
            place = seen - held + error.start if isinstance(error, UnicodeDecodeError) else seen
            other = "utf-16-le or utf-16-be, if it has no mark at its start" if codec.name == "utf-16" else "another"
            raise UserError(f"{name} is not {codec.name} at byte {place}; give {other} as its encoding") from None

    for chunk in content:
        yield decode(chunk, False)
        seen += len(chunk)
    yield decode(b"", True)
