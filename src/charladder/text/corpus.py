"""Corpora: text from a corpus name, files, a URL or standard input, as memory-mapped ids.

Every text is converted once into the cache, under names that contain the digest of its content.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from charladder.errors import UserError
from charladder.text.alphabet import MAX_UINT8_LETTERS, MAX_UINT16_LETTERS, TEXT8_LETTERS, Alphabet, choose_letters
from charladder.text.archives import DamagedArchive
from charladder.text.cache import ProgressCallback, cache_folder, cache_subfolder, no_progress
from charladder.text.cache_locks import shared_cache_lock
from charladder.text.cached_texts import CachedText, find_by_digest, text_path
from charladder.text.datasets import PYTHON, dataset_names, find_cached_dataset, find_downloaded_file, open_dataset
from charladder.text.download import download, download_path
from charladder.text.file_reader import source_size
from charladder.text.ingest import ingest_sources
from charladder.text.letter_encoding import count_letters, encode_text
from charladder.text.memory_map import map_ids
from charladder.text.prune import mark_used
from charladder.text.sources import STDIN, Source, find_python_sources, find_sources, is_url, make_absolute
from charladder.text.trusted_data import Refusal, find_refusal

MAX_LETTERS = {"letters": MAX_UINT8_LETTERS, "unicode": MAX_UINT16_LETTERS}


@dataclass(frozen=True)
class Corpus:
    """A text as ids.

    names: the DATA that it was opened from. ids_N: memory-mapped, uint8 or uint16. ends_F: the id at which each of its
    files ends. sha256, bytes: of the text, unpacked and in UTF-8. unknown: how many letters outside the alphabet were
    replaced or dropped. notes: sentences for the user about how the text was read. file_names: of its files.
    """

    names: tuple[str, ...]
    ids_N: np.ndarray
    ends_F: np.ndarray
    alphabet: Alphabet
    sha256: str
    bytes: int
    unknown: int = 0
    notes: tuple[str, ...] = ()
    file_names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return ", ".join(self.names)


class DataNotOpened(UserError):
    """The data that a run directory names is not opened unless the user names it."""


def open_recorded_corpus(
    data: tuple[str, ...],
    alphabet: Alphabet,
    encoding: str,
    unknown: str,
    sha256: str,
    files: int,
    size: int | None,
    run: str,
    on_progress: ProgressCallback = no_progress,
) -> Corpus:
    """Opens the `data` that a run directory names. Its text has this SHA-256, this number of files and `size` bytes.

    A run directory may come from another person: `charladder.text.trusted_data` says what is opened. If `data` is not
    opened, is missing or has changed, the text comes from the cache. size: None if it is not known. run: the name of
    the run, for messages. Raises UserError as `open_corpus`, and DataNotOpened if the data is not opened and the cache
    does not have the text.
    """
    with shared_cache_lock():
        refusal = find_refusal(data, encoding, sha256, size, run)
        return _open_locked(data, alphabet, encoding, unknown, on_progress, sha256, files, refusal)


def open_corpus(
    data: str | Sequence[str],
    alphabet: str | Alphabet = "bytes",
    encoding: str = "utf-8",
    unknown: str = "error",
    on_progress: ProgressCallback = no_progress,
    expected_sha256: str = "",
    files: int = 1,
) -> Corpus:
    """Opens `data`: a corpus name, a file, a folder, a pattern, a URL, `-`, or several of these, in their order.

    alphabet: an Alphabet, or the kind to learn: `bytes`, `letters`, `unicode`, `text8`. encoding: of the files; with
    utf-8 their bytes are not changed. unknown: `error`, `replace` or `drop`. expected_sha256, files: the SHA-256 and
    the number of files of the text when it was opened before; if `data` is missing or has changed, the text comes from
    the cache, with a note. Raises UserError for data that is missing, empty, unreadable or not encodable.
    """
    data = (data,) if isinstance(data, str) else tuple(data)
    with shared_cache_lock():
        return _open_locked(data, alphabet, encoding, unknown, on_progress, expected_sha256, files)


def _open_locked(
    data: tuple[str, ...],
    alphabet: str | Alphabet,
    encoding: str,
    unknown: str,
    on_progress: ProgressCallback,
    expected_sha256: str,
    files: int,
    refusal: Refusal | None = None,
) -> Corpus:
    """As `open_corpus`; the caller holds the shared lock of the cache. refusal: why `data` is not opened."""
    title = ", ".join(data) if len(data) < 4 else f"{data[0]} and {len(data) - 1} more"
    if expected_sha256:
        text = _reread_text(data, title, encoding, expected_sha256, files, on_progress, refusal)
    else:
        text = _read_text(data, encoding, on_progress)
    if text.bytes == 0:
        raise UserError(f"{title} is empty; give a file with text in it")
    mark_used(text.path.with_suffix(""))
    names = (STDIN,) if text.streamed else _absolute_names(data)
    if alphabet == "bytes" or (isinstance(alphabet, Alphabet) and not alphabet.letters):
        ids_N = map_ids(text.path, np.uint8)
        ends_F = np.array(text.ends, np.int64)
        return Corpus(names, ids_N, ends_F, Alphabet(), text.sha256, text.bytes, 0, text.notes, tuple(text.names))
    if not isinstance(alphabet, Alphabet):
        alphabet = _choose_alphabet(text, alphabet, unknown, title, on_progress)
    path, ends_F, unknown_count = encode_text(text, alphabet, unknown, on_progress)
    if path.stat().st_size == 0:
        raise UserError(f"{title} has no letter of this alphabet, so no text is left; use the alphabet bytes")
    ids_N = map_ids(path, alphabet.dtype)
    return Corpus(
        names, ids_N, ends_F, alphabet, text.sha256, text.bytes, unknown_count, text.notes, tuple(text.names)
    )  # fmt: skip


def _choose_alphabet(text: CachedText, kind: str, unknown: str, title: str, on_progress: ProgressCallback) -> Alphabet:
    if kind == "text8":
        return choose_letters(dict.fromkeys(TEXT8_LETTERS, 1), title, unknown)
    return choose_letters(count_letters(text, on_progress), title, unknown, MAX_LETTERS[kind])


def _absolute_names(data: Sequence[str]) -> tuple[str, ...]:
    """DATA that names the same texts from any working directory."""
    return tuple(name if name in dataset_names() else make_absolute(name) for name in data)


def _read_text(
    data: tuple[str, ...], encoding: str, on_progress: ProgressCallback, include_binary: bool = False
) -> CachedText:
    if len(data) == 1 and data[0] in dataset_names():
        return open_dataset(data[0], on_progress)
    sources = find_text_sources(data, on_progress)
    what = repr(list(_absolute_names(data)))
    try:
        return ingest_sources(what, sources, encoding, on_progress, include_binary=include_binary)
    except DamagedArchive as error:
        damaged = [source for source in sources if is_url(source.name) and source.name in str(error)]
        for source in damaged:
            source.path.unlink(missing_ok=True)  # type: ignore[union-attr]
        raise UserError(f"{error}{'; the next attempt downloads it again' if damaged else ''}") from None


def find_text_sources(data: Sequence[str], on_progress: ProgressCallback = no_progress) -> list[Source]:
    """The files of `data`, each as in `open_corpus`; URLs and named corpora are downloaded first. Raises UserError for
    data that does not exist, and for a stream that is not alone."""
    sources: list[Source] = []
    for one in data:
        if one == PYTHON:
            sources.extend(find_python_sources())
        elif one in dataset_names():
            sources.append(Source(one, open_dataset(one, on_progress).path, is_utf8=True))
        elif is_url(one):
            sources.append(fetch_url(one, on_progress))
        else:
            sources.extend(find_sources(one, dataset_names()))
    streams = [source.name for source in sources if source_size(source) is None]
    if streams and len(sources) > 1:
        raise UserError(
            f"{streams[0]} is a stream, which can only be read alone; save it as a file, or cat all into one"
        )
    return sources


def fetch_url(url: str, on_progress: ProgressCallback, force: bool = False) -> Source:
    """The file of a URL. It is downloaded if the cache does not have it, or with `force`."""
    target = download_path(url, cache_subfolder("downloads"))
    with shared_cache_lock():
        download(url, target, on_progress=on_progress, force=force)
        mark_used(target)
    return Source(url, target)


def check_data_exists(data: str) -> None:
    """Raises UserError for a file, folder or pattern that does not exist. Does not read it and uses no network."""
    if data not in dataset_names() and not is_url(data):
        find_sources(data, dataset_names())


def missing_downloads(data: Sequence[str]) -> list[str]:
    """The URLs and corpus names in `data` that the cache does not have, so that they would be downloaded."""
    folder = cache_folder() / "downloads"
    return [
        one
        for one in data
        if (is_url(one) and not download_path(one, folder).exists())
        or (
            one in dataset_names()
            and one != PYTHON
            and find_cached_dataset(one) is None
            and not find_downloaded_file(one)
        )
    ]


def _reread_text(
    data: tuple[str, ...],
    title: str,
    encoding: str,
    sha256: str,
    files: int,
    on_progress: ProgressCallback,
    refusal: Refusal | None,
) -> CachedText:
    """The text of this SHA-256: from `data`, or from the cache if `data` is missing, has changed or is refused.

    If the cache does not have it either, returns what `data` gives now. Raises UserError if that is nothing, and
    DataNotOpened with a `refusal`.
    """
    found: CachedText | UserError | None = None
    can_read = refusal is None and data != (STDIN,) and not missing_downloads(data)
    if can_read:
        try:
            found = _read_text(data, encoding, on_progress)
            if found.left_out and found.sha256 != sha256:  # version 0.1 trained on binary files too
                complete = _read_text(data, encoding, on_progress, include_binary=True)
                found = complete if complete.sha256 == sha256 else found
        except UserError as error:
            found = error
        if isinstance(found, CachedText) and found.sha256 == sha256:
            return found
    cached = find_by_digest(sha256, title, files, on_progress)
    if cached is not None:
        has_changed = isinstance(found, CachedText) or (refusal is not None and refusal.has_changed)
        change = "has changed" if has_changed else "cannot be read any more"
        note = f"{title} {change}; the earlier text is read from the cache"
        return replace(cached, notes=(note,)) if can_read or has_changed else cached
    if refusal is not None:
        raise DataNotOpened(f"{title} {refusal.reason}, and the cache has no copy of the text")
    if isinstance(found, UserError):
        raise UserError(f"{found}; the cache has no copy of the text either")
    if data == (STDIN,):
        why = "is damaged" if text_path(sha256).is_file() else "is gone"
        raise UserError(
            f"the copy of the text in the cache ({text_path(sha256)}) {why}, and the text came from standard input, "
            "which cannot be read again; save it as a file and start a new run"
        )
    return found or _read_text(data, encoding, on_progress)
