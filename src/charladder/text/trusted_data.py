"""Which text of a run directory is opened when the user has not named it.

A run directory may come from another person, and its config.toml names its text. Such a name is followed where this
machine has read that text from there before, or where it cannot do harm: it must not fetch a URL, copy a folder, unpack
an archive, or wait for a pipe. The text itself is always found in the cache by its SHA-256.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from charladder.text.archives import archive_kind
from charladder.text.cache import cache_folder, read_json
from charladder.text.datasets import PYTHON, by_hand, find_named, names
from charladder.text.encodings import find_codec
from charladder.text.ingest import RECORD, request_key
from charladder.text.sources import STDIN, absolute, is_pattern, is_url

CHUNK = 1 << 20


@dataclass(frozen=True)
class Unopened:
    """Why the text of a run is not opened, as the end of a sentence; `changed`: because it is another text now."""

    why: str
    changed: bool = False


def unopened(asked: Sequence[str], encoding: str, sha256: str, size: int | None, run: str) -> Unopened | None:
    """Why the DATA that a run directory names is not opened unasked; None where it is opened.

    sha256, size: of the text that the run was trained on; size in bytes, None where it is not known. run: its name, for
    the sentence. Data that is not there is left to the caller, who opens it.
    """
    records = known_digests(asked, encoding)
    if sha256 in records or all(harmless_name(one) for one in asked) or tuple(asked) == (STDIN,):
        return None
    files = []
    for one in asked:
        why = forbidden(one, encoding)
        if why:
            return Unopened(why, changed=bool(records))
        files.append(Path(one))
    return compared(files, sha256, size, run)


def known_digests(asked: Sequence[str], encoding: str) -> list[str]:
    """The SHA-256 of the texts that this machine has read from this DATA, by the notes in its cache."""
    what = repr([name if name in names() else absolute(name) for name in asked])
    codec = find_codec(encoding)
    marks = [request_key(one, codec.name if codec else "") for one in (what, f"{what} with all files")]
    notes = [read_json(cache_folder() / "sources" / f"{mark}.json", **RECORD) for mark in marks]
    return [note["sha256"] for note in notes if note is not None]


def harmless_name(data: str) -> bool:
    """Whether DATA is the name of a corpus that is on this machine."""
    return data == PYTHON or (data in names() and (find_named(data) is not None or by_hand(data) is not None))


def forbidden(data: str, encoding: str) -> str:
    """Why one DATA is not opened unasked; empty for a plain file, and for what is not there."""
    if is_url(data):
        return "is a URL, which is not fetched unasked"
    if harmless_name(data):
        return "is one of several texts, which are not read unasked"
    if data in names():
        return "is not in the cache, and is not downloaded unasked"
    if data == STDIN or "\0" in data:
        return "cannot be read again"
    if is_pattern(data):
        return "is a pattern of files, which are not copied unasked"
    path = Path(data)
    try:
        if path.is_dir():
            return "is a folder, which is not copied unasked"
        if not S_ISREG(path.stat().st_mode):
            return "is not a regular file"
    except OSError:
        return ""
    if archive_kind(path.name):
        return "is an archive, which is not unpacked unasked"
    return "has another encoding, and is not converted unasked" if find_codec(encoding) is not None else ""


def compared(files: list[Path], sha256: str, size: int | None, run: str) -> Unopened | None:
    """Why plain files are not opened: their bytes do not have the SHA-256. Nothing of them is kept."""
    try:
        there = sum(file.stat().st_size for file in files)
        if size is not None and there != size:
            return Unopened(f"has changed since {run} began ({there:,} bytes now, {size:,} then)", changed=True)
        mark = hashlib.sha256()
        for file in files:
            with file.open("rb") as opened:
                while chunk := opened.read(CHUNK):
                    mark.update(chunk)
    except OSError:
        return None
    if mark.hexdigest() == sha256:
        return None
    marks = f"SHA-256 {mark.hexdigest()[:12]} now, {sha256[:12]} then"
    return Unopened(f"has changed since {run} began ({marks})", changed=True)
