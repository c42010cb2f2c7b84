"""Corpora by name: where they come from, and how it is known that they are themselves."""

import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charladder.text.archives import DamagedArchive
from charladder.text.cache import Report, cache_folder, read_json, room, silent, write_json
from charladder.text.download import download
from charladder.text.ingest import ExpectedFiles, IngestedText, cached_text, find_text, ingest_sources, request_key
from charladder.text.integrity import is_intact
from charladder.text.sources import Source, fingerprint, python_sources

LICENCE = "CC BY-SA, GFDL (Wikipedia)"


@dataclass(frozen=True)
class Dataset:
    """A corpus that is downloaded. `packed`: bytes of the archive; `expected`: the unpacked text, as published."""

    about: str
    licence: str
    url: str
    packed: int
    expected: ExpectedFiles


DOWNLOADS = {
    "text8": Dataset(
        "English Wikipedia of 2006, cleaned: 26 letters and the space",
        LICENCE,
        "http://mattmahoney.net/dc/text8.zip",
        31_344_016,
        ExpectedFiles(100_000_000, {"md5": "3bea1919949baf155f99411df5fada7e"}),
    ),
    "enwik8": Dataset(
        "English Wikipedia of 2006, the first 100 MB of its XML",
        LICENCE,
        "http://mattmahoney.net/dc/enwik8.zip",
        36_445_475,
        ExpectedFiles(
            100_000_000,
            {"md5": "a1fa5ffddb56f4953e226637dabbb36a", "sha1": "57b8363b814821dc9d47aa4d41f58733519076b2"},
        ),
    ),
}
PYTHON = "python"
PYTHON_ABOUT = "the standard library's own sources, without tests: on every machine, no download"


def names() -> list[str]:
    return [PYTHON, *DOWNLOADS]


def places(name: str) -> list[Path]:
    """The files by which a person may give this corpus by hand."""
    folder = cache_folder() / "downloads"
    return [folder / f"{name}{suffix}" for suffix in (".zip", "", ".gz", ".xz", ".bz2")]


def by_hand(name: str) -> Path | None:
    """The file of this corpus that a person, or a download before, has put into the cache."""
    return next((path for path in places(name) if path.is_file()), None)


def find_named(name: str) -> IngestedText | None:
    """A downloaded corpus that was checked before, if a file of its size is in the cache."""
    known = read_json(cache_folder() / "sources" / f"{name}.json", sha256=str, bytes=int)
    if known is None or known["bytes"] != DOWNLOADS[name].expected.bytes:
        return None
    path = cached_text(known["sha256"])
    whole = path.is_file() and path.stat().st_size == known["bytes"]
    return IngestedText(path, known["sha256"], known["bytes"], [name], [known["bytes"]]) if whole else None


def open_named(name: str, report: Report = silent) -> IngestedText:
    """The corpus of this name: from the cache, from a file put there by hand, or fetched; checked in any case."""
    if name == PYTHON:
        return ingest_sources(PYTHON, python_sources(), report=report)
    known = find_named(name)
    if known is not None and is_intact(known.path, known.sha256, report):
        return known
    corpus, folder = DOWNLOADS[name], room("downloads")
    found = by_hand(name)
    file = found or folder / f"{name}.zip"
    if found is None:
        advice = f"; a copy put at {file} (or {folder / name}, unpacked) by hand is taken too"
        download(corpus.url, file, corpus.packed, report, advice)
    try:
        text = ingest_sources(name, [Source(str(file), file)], report=report, expected=corpus.expected)
    except DamagedArchive as error:
        if found is None:
            file.unlink(missing_ok=True)
            raise DamagedArchive(f"{corpus.url} gave no {name}: {error}") from None
        raise DamagedArchive(f"{error}; remove it, and the next attempt fetches {corpus.url}") from None
    write_json(room("sources") / f"{name}.json", {"sha256": text.sha256, "bytes": text.bytes})
    return IngestedText(text.path, text.sha256, text.bytes, [name], [text.bytes])


def corpora() -> dict[str, dict[str, Any]]:
    """What there is by name: sizes (characters are bytes here), licence, address, splits, and what is in the cache."""
    text = find_text(cache_folder() / "sources" / f"{request_key(PYTHON)}.json", fingerprint(python_sources()))
    facts: dict[str, dict[str, Any]] = {
        PYTHON: {
            "about": PYTHON_ABOUT,
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
    for name, corpus in DOWNLOADS.items():
        there = find_named(name)
        facts[name] = {
            "about": corpus.about,
            "licence": corpus.licence,
            "url": corpus.url,
            "download_bytes": corpus.packed,
            "characters": corpus.expected.bytes,
            "split": "90M train, 5M valid, 5M test",
            "cached": there is not None,
            "sha256": there.sha256 if there else None,
            "place": str(there.path if there else places(name)[0]),
        }
    return facts
