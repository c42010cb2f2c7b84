"""Corpora by name: where each is downloaded from, and the digests that its text must have."""

import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charladder.text.archives import DamagedArchive
from charladder.text.cache import (
    ProgressCallback,
    cache_folder,
    cache_subfolder,
    no_progress,
    read_record,
    write_record,
)
from charladder.text.cached_texts import CachedText, find_by_fingerprint, request_key, text_path
from charladder.text.download import download
from charladder.text.ingest import ExpectedText, ingest_sources
from charladder.text.integrity import is_intact
from charladder.text.sources import Source, find_python_sources, fingerprint

WIKIPEDIA_LICENCE = "CC BY-SA, GFDL (Wikipedia)"


@dataclass(frozen=True)
class Dataset:
    """A corpus that is downloaded. download_bytes: of the archive. expected: the unpacked text, as published."""

    description: str
    licence: str
    url: str
    download_bytes: int
    expected: ExpectedText


DOWNLOADS = {
    "text8": Dataset(
        "English Wikipedia of 2006, cleaned: 26 letters and the space",
        WIKIPEDIA_LICENCE,
        "http://mattmahoney.net/dc/text8.zip",
        31_344_016,
        ExpectedText(100_000_000, {"md5": "3bea1919949baf155f99411df5fada7e"}),
    ),
    "enwik8": Dataset(
        "English Wikipedia of 2006, the first 100 MB of its XML",
        WIKIPEDIA_LICENCE,
        "http://mattmahoney.net/dc/enwik8.zip",
        36_445_475,
        ExpectedText(
            100_000_000,
            {"md5": "a1fa5ffddb56f4953e226637dabbb36a", "sha1": "57b8363b814821dc9d47aa4d41f58733519076b2"},
        ),
    ),
}
PYTHON = "python"
PYTHON_DESCRIPTION = "the standard library's own sources, without tests: on every machine, no download"


def dataset_names() -> list[str]:
    return [PYTHON, *DOWNLOADS]


def download_paths(name: str) -> list[Path]:
    """The paths at which the user may put the file of this corpus, packed or not."""
    folder = cache_folder() / "downloads"
    return [folder / f"{name}{suffix}" for suffix in (".zip", "", ".gz", ".xz", ".bz2")]


def find_downloaded_file(name: str) -> Path | None:
    """The file of this corpus in the cache, downloaded earlier or put there by the user."""
    return next((path for path in download_paths(name) if path.is_file()), None)


def find_cached_dataset(name: str) -> CachedText | None:
    """The text of a downloaded corpus that was checked before, if the cache has a file of its size."""
    known = read_record(cache_folder() / "sources" / f"{name}.json", sha256=str, bytes=int)
    if known is None or known["bytes"] != DOWNLOADS[name].expected.bytes:
        return None
    path = text_path(known["sha256"])
    is_complete = path.is_file() and path.stat().st_size == known["bytes"]
    return CachedText(path, known["sha256"], known["bytes"], [name], [known["bytes"]]) if is_complete else None


def open_dataset(name: str, on_progress: ProgressCallback = no_progress) -> CachedText:
    """The text of this corpus: from the cache, from a file that the user put there, or downloaded.

    Its digests are checked in all three cases.
    """
    if name == PYTHON:
        return ingest_sources(PYTHON, find_python_sources(), on_progress=on_progress)
    known = find_cached_dataset(name)
    if known is not None and is_intact(known.path, known.sha256, on_progress):
        return known
    dataset, folder = DOWNLOADS[name], cache_subfolder("downloads")
    found = find_downloaded_file(name)
    file = found or folder / f"{name}.zip"
    if found is None:
        advice = f"; a copy put at {file} (or {folder / name}, unpacked) by hand is used too"
        download(dataset.url, file, dataset.download_bytes, on_progress, advice)
    try:
        text = ingest_sources(name, [Source(str(file), file)], on_progress=on_progress, expected=dataset.expected)
    except DamagedArchive as error:
        if found is None:
            file.unlink(missing_ok=True)
            raise DamagedArchive(f"{dataset.url} gave no {name}: {error}") from None
        raise DamagedArchive(f"{error}; remove it, and the next attempt downloads {dataset.url}") from None
    write_record(cache_subfolder("sources") / f"{name}.json", {"sha256": text.sha256, "bytes": text.bytes})
    return CachedText(text.path, text.sha256, text.bytes, [name], [text.bytes])


def list_corpora() -> dict[str, dict[str, Any]]:
    """The corpora by name: sizes (a character is a byte here), licence, URL, split, and what the cache has."""
    record = cache_folder() / "sources" / f"{request_key(PYTHON)}.json"
    text = find_by_fingerprint(record, fingerprint(find_python_sources()))
    corpora: dict[str, dict[str, Any]] = {
        PYTHON: {
            "about": PYTHON_DESCRIPTION,
            "licence": "PSF-2.0",
            "url": None,
            "download_bytes": None,
            "characters": text.bytes if text else None,
            "split": "the last 5% test, the 5% before them valid",
            "cached": text is not None,
            "sha256": text.sha256 if text else None,
            "place": sysconfig.get_paths()["stdlib"],
        }
    }
    for name, dataset in DOWNLOADS.items():
        text = find_cached_dataset(name)
        corpora[name] = {
            "about": dataset.description,
            "licence": dataset.licence,
            "url": dataset.url,
            "download_bytes": dataset.download_bytes,
            "characters": dataset.expected.bytes,
            "split": "90M train, 5M valid, 5M test",
            "cached": text is not None,
            "sha256": text.sha256 if text else None,
            "place": str(text.path if text else download_paths(name)[0]),
        }
    return corpora
