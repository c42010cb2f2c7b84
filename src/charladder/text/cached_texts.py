"""Texts in the cache, and the records of the sources that they were read from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charladder.text.binary_files import left_out_note
from charladder.text.cache import ProgressCallback, cache_subfolder, no_progress, read_record
from charladder.text.integrity import is_intact

TEXT_RECORD_FIELDS = {"fingerprint": str, "sha256": str, "bytes": int, "names": list, "ends": list, "left_out": list}


@dataclass(frozen=True)
class CachedText:
    """A text in the cache.

    names, ends: its files and the byte at which each ends, without empty files. notes: sentences for the user about how
    it was read. streamed: it came from a stream, which cannot be read again. left_out: files that were left out because
    they are binary.
    """

    path: Path
    sha256: str
    bytes: int
    names: list[str]
    ends: list[int]
    notes: tuple[str, ...] = ()
    streamed: bool = False
    left_out: tuple[str, ...] = ()


def text_path(sha256: str) -> Path:
    """The path of the text of this digest in the cache, whether or not it exists."""
    return cache_subfolder("texts") / f"{sha256}.bytes"


def request_key(what: str, codec: str = "") -> str:
    """The name of the record of a request: DATA, and the codec that its files are converted from."""
    return hashlib.sha256(f"{codec}\n{what}".encode("utf-8", "surrogateescape")).hexdigest()[:32]


def make_cached_text(
    sha256: str, size: int, names: list[str], ends: list[int], left_out: list[str], notes: Sequence[str] = ()
) -> CachedText:
    """A CachedText, with a note about the files that are left out."""
    about = [left_out_note(left_out)] if left_out else []
    return CachedText(text_path(sha256), sha256, size, names, ends, (*notes, *about), left_out=tuple(left_out))


def find_by_fingerprint(record: Path, fingerprint: str | None) -> CachedText | None:
    """The text that these sources gave before, if they are unchanged and the cache has a file of its size.

    The content of the file is not compared: see `find_intact`.
    """
    known = read_record(record, **TEXT_RECORD_FIELDS)
    if known is None or known["fingerprint"] != fingerprint or not has_valid_ends(known, known["bytes"]):
        return None
    text = make_cached_text(known["sha256"], known["bytes"], known["names"], known["ends"], known["left_out"])
    return text if text.path.is_file() and text.path.stat().st_size == text.bytes else None


def find_intact(
    record: Path, fingerprint: str | None, on_progress: ProgressCallback = no_progress
) -> CachedText | None:
    """As `find_by_fingerprint`, if the file in the cache has the right SHA-256."""
    text = find_by_fingerprint(record, fingerprint)
    return text if text is not None and is_intact(text.path, text.sha256, on_progress) else None


def find_by_digest(
    sha256: str, name: str, files: int = 1, on_progress: ProgressCallback = no_progress
) -> CachedText | None:
    """The text of this SHA-256 in the cache, whatever happened to its sources; None without an intact copy.

    The ends of its files come from a record of the same text with this number of `files`. Without such a record, the
    text counts as a single file called `name`.
    """
    path = text_path(sha256)
    if not path.is_file() or not is_intact(path, sha256, on_progress):
        return None
    size = path.stat().st_size
    names, ends = (_find_file_ends(sha256, size, files) if files > 1 else None) or ([name], [size])
    return CachedText(path, sha256, size, names, ends)


def _find_file_ends(sha256: str, size: int, files: int) -> tuple[list[str], list[int]] | None:
    """Names and ends of the files of a text, from any record of it with this number of files; None without one."""
    stream = read_record(text_path(sha256).with_suffix(".stream.json"), names=list, ends=list)
    if stream is not None and len(stream["ends"]) == files and has_valid_ends(stream, size):
        return stream["names"], stream["ends"]
    for path in sorted(cache_subfolder("sources").glob("*.json")):
        known = read_record(path, **TEXT_RECORD_FIELDS)
        if known is not None and (known["sha256"], known["bytes"], len(known["ends"])) == (sha256, size, files):
            return (known["names"], known["ends"]) if has_valid_ends(known, size) else None
    return None


def has_valid_ends(record: dict[str, Any], size: int) -> bool:
    """Whether the names and ends in a record are possible for a text of `size` bytes."""
    ends = record["ends"]
    return (
        len(record["names"]) == len(ends)
        and all(isinstance(end, int) and before < end for before, end in zip([0, *ends], ends, strict=False))
        and (ends[-1] if ends else 0) <= size
    )
