"""The decision whether data that a run directory names is opened automatically.

A run directory may come from another person, so the data in its config.toml is not trusted. It is opened if this
machine has read the same text from there before, or if opening it is safe: no URL is downloaded, no folder copied, no
archive unpacked, no pipe read. A text that is in the cache is always found, by its SHA-256.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from charladder.text.archives import is_archive
from charladder.text.cache import cache_folder, read_record
from charladder.text.cached_texts import TEXT_RECORD_FIELDS, request_key
from charladder.text.datasets import PYTHON, dataset_names, find_cached_dataset, find_downloaded_file
from charladder.text.encodings import find_codec
from charladder.text.sources import STDIN, is_pattern, is_url, make_absolute

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Refusal:
    """Why the data of a run is not opened, as the end of a sentence. has_changed: it is another text now."""

    reason: str
    has_changed: bool = False


def find_refusal(data: Sequence[str], encoding: str, sha256: str, size: int | None, run: str) -> Refusal | None:
    """Why the `data` that a run directory names is not opened; None if it is opened.

    sha256, size: of the text that the run was trained on; the size in bytes, or None. run: the name of the run, for the
    message. Returns None for data that does not exist: the caller then fails to open it.
    """
    recorded = _recorded_digests(data, encoding)
    if sha256 in recorded or all(map(_is_local_dataset, data)) or tuple(data) == (STDIN,):
        return None
    files = []
    for one in data:
        reason = _refusal_reason(one, encoding)
        if reason:
            return Refusal(reason, has_changed=bool(recorded))
        files.append(Path(one))
    return _compare_files(files, sha256, size, run)


def _recorded_digests(data: Sequence[str], encoding: str) -> list[str]:
    """The SHA-256 of the texts that this machine has read from `data`, from the records in its cache."""
    what = repr([name if name in dataset_names() else make_absolute(name) for name in data])
    codec = find_codec(encoding)
    keys = [request_key(one, codec.name if codec else "") for one in (what, f"{what} with all files")]
    records = [read_record(cache_folder() / "sources" / f"{key}.json", **TEXT_RECORD_FIELDS) for key in keys]
    return [record["sha256"] for record in records if record is not None]


def _is_local_dataset(data: str) -> bool:
    """Whether `data` is the name of a corpus that is on this machine."""
    if data == PYTHON:
        return True
    return data in dataset_names() and (find_cached_dataset(data) or find_downloaded_file(data)) is not None


def _refusal_reason(data: str, encoding: str) -> str:
    """Why one DATA is not opened; empty for a plain file, and for a file that does not exist."""
    if is_url(data):
        return "is a URL, which is not downloaded automatically"
    if _is_local_dataset(data):
        return "is one of several texts, which are not read automatically"
    if data in dataset_names():
        return "is not in the cache, and is not downloaded automatically"
    if data == STDIN or "\0" in data:
        return "cannot be read again"
    if is_pattern(data):
        return "is a pattern of files, which are not copied automatically"
    path = Path(data)
    try:
        if path.is_dir():
            return "is a folder, which is not copied automatically"
        if not S_ISREG(path.stat().st_mode):
            return "is not a regular file"
    except OSError:
        return ""
    if is_archive(path.name):
        return "is an archive, which is not unpacked automatically"
    return "has another encoding, and is not converted automatically" if find_codec(encoding) else ""


def _compare_files(files: list[Path], sha256: str, size: int | None, run: str) -> Refusal | None:
    """A refusal if the bytes of plain files do not have this SHA-256. Nothing of them is stored."""
    try:
        size_now = sum(file.stat().st_size for file in files)
        if size is not None and size_now != size:
            reason = f"has changed since {run} began ({size_now:,} bytes now, {size:,} then)"
            return Refusal(reason, has_changed=True)
        digest = hashlib.sha256()
        for path in files:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
    except OSError:
        return None
    if digest.hexdigest() == sha256:
        return None
    digests = f"SHA-256 {digest.hexdigest()[:12]} now, {sha256[:12]} then"
    return Refusal(f"has changed since {run} began ({digests})", has_changed=True)
