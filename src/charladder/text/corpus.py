"""Corpora: text from a name, files, a URL or standard input, as memory-mapped ids.

Everything is converted once into the cache folder, under names made of its content; what is there already is opened.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from charladder.errors import UserError
from charladder.text.alphabet import LARGE, SMALL, TEXT8, Alphabet, choose_letters
from charladder.text.archives import DamagedArchive
from charladder.text.by_digest import recorded_text
from charladder.text.cache import Report, cache_folder, room, silent
from charladder.text.cache_locks import opening_texts
from charladder.text.character_counts import count_letters, spell
from charladder.text.datasets import PYTHON, by_hand, find_named, names, open_named
from charladder.text.download import download, place_of
from charladder.text.file_reader import size_of
from charladder.text.ingest import IngestedText, cached_text, ingest_sources
from charladder.text.memory_map import map_ids
from charladder.text.prune import mark_used
from charladder.text.sources import STDIN, Source, absolute, find, is_url, python_sources
from charladder.text.trusted_data import Unopened, unopened

MOST = {"letters": SMALL, "unicode": LARGE}


@dataclass(frozen=True)
class Corpus:
    """A text as ids.

    names: what it was opened by. ids_N: memory-mapped, uint8 or uint16. ends_F: where each of its files ends, in ids.
    sha256: of the text's bytes, unpacked and in UTF-8; bytes: how many they are. unknown: letters outside the
    alphabet that were replaced or dropped. notes: what a person should know of how it was read, a sentence each.
    """

    names: tuple[str, ...]
    ids_N: np.ndarray
    ends_F: np.ndarray
    alphabet: Alphabet
    sha256: str
    bytes: int
    unknown: int = 0
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return ", ".join(self.names)


class NotOpened(UserError):
    """The data that a run directory names is not opened unless the user names it."""


def open_recorded(
    data: tuple[str, ...],
    alphabet: Alphabet,
    encoding: str,
    unknown: str,
    sha256: str,
    files: int,
    size: int | None,
    run: str,
    report: Report = silent,
) -> Corpus:
    """Opens the `data` that a run directory names, whose text has this SHA-256 and so many files.

    A run directory may come from another person: see `charladder.text.trusted_data` for what is opened. Where `data` is
    not opened, is gone or has changed, the text comes from the cache. size: of the text, in bytes, where it is known.
    run: the name of the run, for messages. Raises UserError as `open_corpus`, and NotOpened where the data is not
    opened and the cache does not have the text.
    """
    with opening_texts():
        closed = unopened(data, encoding, sha256, size, run)
        return opened_corpus(data, alphabet, encoding, unknown, report, sha256, files, closed)


def open_corpus(
    data: str | Sequence[str],
    alphabet: str | Alphabet = "bytes",
    encoding: str = "utf-8",
    unknown: str = "error",
    report: Report = silent,
    again: str = "",
    files: int = 1,
) -> Corpus:
    """Opens `data`: the name of a corpus, a file, a folder, a pattern, a URL, `-`, or several of these in their order.

    alphabet: one, or the kind to learn: `bytes`, `letters`, `unicode`, `text8`. encoding: of the files; bytes stay as
    they are in utf-8. unknown: `error`, `replace` or `drop`. again, files: the SHA-256 that the text had before, and
    the number of its files; where `data` is gone or has changed, the text is read from the cache, and a note says so.
    Raises UserError for what is not there, empty, unreadable, or not to be spelled.
    """
    asked = (data,) if isinstance(data, str) else tuple(data)
    with opening_texts():
        return opened_corpus(asked, alphabet, encoding, unknown, report, again, files)


def opened_corpus(
    asked: tuple[str, ...],
    alphabet: str | Alphabet,
    encoding: str,
    unknown: str,
    report: Report,
    again: str,
    files: int,
    closed: Unopened | None = None,
) -> Corpus:
    """As `open_corpus`, while no other process prunes the cache. closed: why `asked` is not opened."""
    shown = ", ".join(asked) if len(asked) < 4 else f"{asked[0]} and {len(asked) - 1} more"
    if again:
        text = read_again(asked, shown, encoding, again, files, report, closed)
    else:
        text = read_text(asked, encoding, report)
    if text.bytes == 0:
        raise UserError(f"{shown} is empty; give a file with text in it")
    mark_used(text.path.with_suffix(""))
    kept_names = tuple(name if name in names() else absolute(name) for name in asked)
    if text.streamed:
        kept_names = (STDIN,)
    if alphabet == "bytes" or (isinstance(alphabet, Alphabet) and not alphabet.letters):
        ids_N = map_ids(text.path, np.uint8)
        ends_F = np.array(text.ends, np.int64)
        return Corpus(kept_names, ids_N, ends_F, Alphabet(), text.sha256, text.bytes, 0, text.notes)
    chosen = alphabet if isinstance(alphabet, Alphabet) else learn(text, alphabet, unknown, shown, report)
    path, ends_F, strange = spell(text, chosen, unknown, report)
    if path.stat().st_size == 0:
        raise UserError(f"{shown} has no letter of this alphabet, so nothing of it is left; use the alphabet bytes")
    ids_N = map_ids(path, chosen.dtype)
    return Corpus(kept_names, ids_N, ends_F, chosen, text.sha256, text.bytes, strange, text.notes)


def learn(text: IngestedText, kind: str, unknown: str, shown: str, report: Report) -> Alphabet:
    if kind == "text8":
        return choose_letters(dict.fromkeys(TEXT8, 1), shown, unknown)
    return choose_letters(count_letters(text, report), shown, unknown, MOST[kind])


def read_text(asked: tuple[str, ...], encoding: str, report: Report, everything: bool = False) -> IngestedText:
    """everything: files that are not text too."""
    if len(asked) == 1 and asked[0] in names():
        return open_named(asked[0], report)
    sources: list[Source] = []
    for data in asked:
        if data == PYTHON:
            sources.extend(python_sources())
        elif data in names():
            sources.append(Source(data, open_named(data, report).path, raw=True))
        elif is_url(data):
            sources.append(ensure_cached(data, report))
        else:
            sources.extend(find(data, names()))
    streams = [source.name for source in sources if size_of(source) is None]
    if streams and len(sources) > 1:
        raise UserError(
            f"{streams[0]} is a stream, which can only be read alone; save it as a file, or cat all into one"
        )
    what = repr([name if name in names() else absolute(name) for name in asked])
    try:
        return ingest_sources(what, sources, encoding, report, everything=everything)
    except DamagedArchive as error:
        bad = [source for source in sources if is_url(source.name) and source.name in str(error)]
        for source in bad:
            source.path.unlink(missing_ok=True)  # type: ignore[union-attr]
        raise UserError(f"{error}{'; the next attempt fetches it again' if bad else ''}") from None


def ensure_cached(url: str, report: Report, anew: bool = False) -> Source:
    """The file of a URL, downloaded once."""
    target = place_of(url, room("downloads"))
    with opening_texts():
        download(url, target, report=report, anew=anew)
        mark_used(target)
    return Source(url, target)


def exists(data: str) -> None:
    """Raises UserError for DATA that is not there. Reads nothing, and knows nothing of what is on the network."""
    if data not in names() and not is_url(data):
        find(data, names())


def not_fetched(asked: Sequence[str]) -> list[str]:
    """Which of several DATA would be downloaded, for the cache does not have them."""
    folder = cache_folder() / "downloads"
    return [
        data
        for data in asked
        if (is_url(data) and not place_of(data, folder).exists())
        or (data in names() and data != PYTHON and find_named(data) is None and not by_hand(data))
    ]


def read_again(
    asked: tuple[str, ...],
    shown: str,
    encoding: str,
    sha256: str,
    files: int,
    report: Report,
    closed: Unopened | None,
) -> IngestedText:
    """The text of this SHA-256: from its source, or from the cache where the source is gone or has changed. Where the
    cache does not have it either, what the source gives now. Raises UserError where that is nothing, and where the
    source is `closed`: not to be opened."""
    found: IngestedText | UserError | None = None
    at_hand = closed is None and asked != (STDIN,) and not not_fetched(asked)
    if at_hand:
        try:
            found = read_text(asked, encoding, report)
            if found.left_out and found.sha256 != sha256:  # a run of version 0.1 was trained on them
                whole = read_text(asked, encoding, report, everything=True)
                found = whole if whole.sha256 == sha256 else found
        except UserError as error:
            found = error
        if isinstance(found, IngestedText) and found.sha256 == sha256:
            return found
    old = recorded_text(sha256, shown, files, report)
    if old is not None:
        changed = isinstance(found, IngestedText) or (closed is not None and closed.changed)
        change = "has changed" if changed else "cannot be read any more"
        note = f"{shown} {change}; the text that it was is taken from the cache"
        return replace(old, notes=(note,)) if at_hand or changed else old
    if closed is not None:
        raise NotOpened(f"{shown} {closed.why}, and the cache has no copy of the text")
    if isinstance(found, UserError):
        raise UserError(f"{found}; the cache has no copy of the text either")
    if asked == (STDIN,):
        why = "is damaged" if cached_text(sha256).is_file() else "is gone"
        raise UserError(
            f"the copy of the text in the cache ({cached_text(sha256)}) {why}, and the text came from standard "
            "input, which "
            "cannot be read again; save it as a file and start a new run"
        )
    return found or read_text(asked, encoding, report)
