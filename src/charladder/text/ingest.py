"""Gathering: all the files of one DATA as one text in the cache, in one pass, under the SHA-256 of its bytes.

An interrupted gathering goes on where it was: at the first file that was not finished, or inside it where it is plain.
Two processes that gather the same take turns, and the second finds the work done.
"""

import codecs
import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from charladder.atomic_io import move_into_place, sweep
from charladder.text.archives import DamagedArchive, archive_kind, chunks, unpack
from charladder.text.binary_files import file_is_binary, is_binary, left_out_note, peeked
from charladder.text.cache import DAY, Report, read_json, room, silent, write_json, writing
from charladder.text.encodings import find_codec, recoded
from charladder.text.file_reader import open_source, position, size_of
from charladder.text.integrity import is_intact, mark_verified
from charladder.text.partial_file import PartialFile
from charladder.text.sources import Source, fingerprint

NOTE_SECONDS = 5.0
RECORD = {"fingerprint": str, "sha256": str, "bytes": int, "names": list, "ends": list, "left_out": list}


@dataclass(frozen=True)
class IngestedText:
    """A text in the cache. `names`, `ends`: its files and where each ends, in bytes; empty files are left out.

    `notes`: what a person should know of how it was read, a sentence each. `streamed`: it came from one stream, which
    cannot be read again. `left_out`: files that are not in it, for they are not text.
    """

    path: Path
    sha256: str
    bytes: int
    names: list[str]
    ends: list[int]
    notes: tuple[str, ...] = ()
    streamed: bool = False
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExpectedFiles:
    """What a text must be to be the corpus of its name: length in bytes, and digests by the name of their kind."""

    bytes: int
    digests: dict[str, str]


@dataclass
class IngestProgress:
    """How far a gathering is: sources finished, bytes read of the next one (if plain), and all that was written, with
    its SHA-256. everything: files that are not text are read too; otherwise they are left_out."""

    finished: int = 0
    inside: int = 0
    written: int = 0
    sha256: str = ""
    names: list[str] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    everything: bool = False


def cached_text(sha256: str) -> Path:
    """Where the text of this digest is kept, if it is."""
    return room("texts") / f"{sha256}.bytes"


def ingest_sources(
    what: str,
    sources: list[Source],
    encoding: str = "utf-8",
    report: Report = silent,
    expected: ExpectedFiles | None = None,
    everything: bool = False,
) -> IngestedText:
    """The text of `sources`, one after the other, unpacked, and recoded to UTF-8 where `encoding` is another.

    Files that are not text are left out, unless `everything` is wanted, or there are no others: of those that a folder
    or a pattern gave, and of those in an archive.
    `what` says which DATA it is, the same for the same sources. Raises UserError for what cannot be read, unpacked or
    decoded, what changes on the way, and what is not as expected; the cache then has nothing of it.
    """
    codec, everything = find_codec(encoding), everything or expected is not None
    marked = f"{what} with all files" if everything and expected is None else what
    record = room("sources") / f"{request_key(marked, codec.name if codec else '')}.json"
    files = fingerprint(sources)
    everything = everything or files is None  # a stream cannot be read a second time

    def read(record: Path) -> IngestedText:
        text = read_all(record, sources, files, codec, report, expected, everything)
        if text.bytes or not text.left_out:
            return text
        return read_all(record, sources, files, codec, report, expected, True)

    if files is None:  # a stream is nobody else's, and is not known again
        return read(record.with_stem(f"{record.stem}-{os.getpid()}-{time.monotonic_ns()}"))
    if (known := find_recorded(record, files, report)) is not None:
        return known
    with writing():
        lock = FileLock(record.with_suffix(".lock"))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            report("waiting for another process that reads the same", 0, None)
            lock.acquire()
    try:
        return find_recorded(record, files, report) or read(record)
    finally:
        lock.release()


def request_key(what: str, codec: str = "") -> str:
    """The name under which the cache knows a DATA."""
    return hashlib.sha256(f"{codec}\n{what}".encode("utf-8", "surrogateescape")).hexdigest()[:32]


def find_text(record: Path, files: str | None) -> IngestedText | None:
    """The text that these sources gave before, if they are still the same and a file of its size is in the cache."""
    known = read_json(record, **RECORD)
    if files is None or known is None or known["fingerprint"] != files or not fit(known, known["bytes"]):
        return None
    text = text_of(known["sha256"], known["bytes"], known["names"], known["ends"], known["left_out"])
    return text if text.path.is_file() and text.path.stat().st_size == text.bytes else None


def text_of(
    sha256: str, size: int, names: list[str], ends: list[int], left_out: list[str], notes: Sequence[str] = ()
) -> IngestedText:
    """A text in the cache, with a note about the files that are left out."""
    about = [left_out_note(left_out)] if left_out else []
    return IngestedText(cached_text(sha256), sha256, size, names, ends, (*notes, *about), left_out=tuple(left_out))


def find_recorded(record: Path, files: str | None, report: Report = silent) -> IngestedText | None:
    """As `find_text`, if the file in the cache is intact."""
    text = find_text(record, files)
    return text if text is not None and is_intact(text.path, text.sha256, report) else None


def fit(known: dict[str, Any], size: int) -> bool:
    """Whether the names and ends of the files of a text of `size` bytes can be right."""
    ends = known["ends"]
    return (
        len(known["names"]) == len(ends)
        and all(isinstance(end, int) and before < end for before, end in zip([0, *ends], ends, strict=False))
        and (ends[-1] if ends else 0) <= size
    )


def read_all(
    record: Path,
    sources: list[Source],
    files: str | None,
    codec: codecs.CodecInfo | None,
    report: Report,
    expected: ExpectedFiles | None,
    everything: bool,
) -> IngestedText:
    """Reads `sources` into a file beside, and renames that to its digest. Called with the lock held."""
    for folder in (record.parent, room("texts")):
        sweep(folder, seconds=DAY)  # what is younger may belong to a process that lives
    # Who wrote those of this record held the lock, and was killed. Version 0.1.0 wrote them without a dot.
    sweep(record.parent, f".{record.stem}.*.part", f"{record.stem}.*.part")
    journal, path = record.with_suffix(".part.json"), record.with_suffix(".part")
    progress = resume_progress(journal, path, files, len(sources), everything)
    kinds = ("sha256", *(expected.digests if expected else ()))
    with writing():
        part = PartialFile(path, progress.written, tuple(dict.fromkeys(kinds)))
        if progress.written and part.marks["sha256"].hexdigest() != progress.sha256:  # damaged meanwhile
            part.drop()
            progress = IngestProgress(everything=progress.everything)
            part = PartialFile(path, 0, tuple(dict.fromkeys(kinds)))
    notes: list[str] = []
    try:
        ingest_files(part, sources, codec, progress, journal, files, notes, report)
        if progress.left_out and not part.size:  # there are no others: `gather` reads everything
            part.drop()
            journal.unlink(missing_ok=True)
            return text_of("", 0, [], [], progress.left_out)
        part.close()
        sha256 = part.marks["sha256"].hexdigest()
        if expected is not None:
            check(part, expected, sources[0].name)
        target = cached_text(sha256)
        with writing():
            move_into_place(path, target)
            mark_verified(target, sha256)
        journal.unlink(missing_ok=True)
        if files is not None and fingerprint(sources) == files:
            known = {"fingerprint": files, "sha256": sha256, "bytes": part.size}
            known |= {"names": progress.names, "ends": progress.ends, "left_out": progress.left_out}
            write_json(record, known)
        streamed = len(sources) == 1 and size_of(sources[0]) is None
        if streamed:
            write_json(target.with_suffix(".stream.json"), {"names": progress.names, "ends": progress.ends})
        text = text_of(sha256, part.size, progress.names, progress.ends, progress.left_out, notes)
        return replace(text, streamed=streamed)
    except KeyboardInterrupt:
        part.drop(keep=journal.exists())
        raise  # what is noted in the journal is gone on from
    except BaseException:
        part.drop()
        journal.unlink(missing_ok=True)
        raise


def resume_progress(journal: Path, part: Path, files: str | None, sources: int, everything: bool) -> IngestProgress:
    """How far a gathering of the same files came that was broken off; one that had begun to read everything goes on
    so."""
    before = read_json(
        journal, fingerprint=str, finished=int, inside=int, written=int, sha256=str, names=list, ends=list,
        left_out=list, everything=bool,
    )  # fmt: skip
    fresh = IngestProgress(everything=everything)
    if files is None or before is None or before.pop("fingerprint") != files or not part.is_file():
        return fresh
    if everything and not before["everything"]:
        return fresh
    last = before["ends"][-1] if before["ends"] and fit(before, before["written"]) else 0
    right = (
        fit(before, before["written"])
        and 0 <= before["finished"] <= sources
        and before["written"] == last + before["inside"] <= part.stat().st_size
    )
    return IngestProgress(**before) if right else fresh


def ingest_files(
    part: PartialFile,
    sources: list[Source],
    codec: codecs.CodecInfo | None,
    progress: IngestProgress,
    journal: Path,
    files: str | None,
    notes: list[str],
    report: Report,
) -> None:
    """Reads what `progress` has left, writes it to `part`, and notes in the journal how far it is."""
    sizes = [size_of(source) for source in sources]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    noted = time.monotonic()

    def note() -> None:
        nonlocal noted
        if files is not None and time.monotonic() - noted >= NOTE_SECONDS:
            with writing():
                part.file.flush()
                os.fsync(part.file.fileno())  # the journal must not know of what a power cut may lose
            progress.written, progress.sha256 = part.size, part.marks["sha256"].hexdigest()
            write_json(journal, {"fingerprint": files, **asdict(progress)})
            noted = time.monotonic()

    done = sum(size or 0 for size in sizes[: progress.finished])
    for source, size in zip(sources[progress.finished :], sizes[progress.finished :], strict=True):
        recode = None if source.raw else codec
        plain = recode is None and not archive_kind(source.form)
        choosing = not progress.everything and not progress.inside
        if choosing and is_left_out(source, recode):
            progress.left_out.append(source.name)
            done += size or 0
            progress.finished += 1
            continue
        with open_source(source, progress.inside, plain, notes) as (file, length):
            one = [(source.name, chunks(file, source.name))]
            for name, content in one if plain else unpack(file, source.name, length, source.form):
                begin = part.size - progress.inside
                content = recoded(content, recode, name) if recode else content
                if choosing and archive_kind(source.form) and (source.found or name != source.name):
                    first, content = peeked(content)
                    if is_binary(first):
                        progress.left_out.append(name)
                        continue
                for chunk in content:
                    part.write(chunk)
                    if plain:
                        progress.inside += len(chunk)
                        note()
                    report("reading", part.size if total is None else done + position(file), total)
                if part.size > begin:
                    progress.names.append(name)
                    progress.ends.append(part.size)
        done += size or 0
        progress.finished, progress.inside = progress.finished + 1, 0
        note()
    report("reading", done, total)


def is_left_out(source: Source, codec: codecs.CodecInfo | None) -> bool:
    """Whether a source, which is no archive, is not text and was not asked for by its name."""
    if not source.found or source.path is None or archive_kind(source.form):
        return False
    return file_is_binary(source.path, codec)


def check(part: PartialFile, expected: ExpectedFiles, name: str) -> None:
    if part.size != expected.bytes:
        raise DamagedArchive(
            f"{name} unpacks to {part.size:,} bytes and not {expected.bytes:,}; it is not the right file"
        )
    for kind, digest in expected.digests.items():
        found = part.marks[kind].hexdigest()
        if found != digest:
            raise DamagedArchive(f"{name} has the {kind.upper()} {found} and not {digest}; it is not the right file")
