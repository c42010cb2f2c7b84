"""Ingestion: reads all files of one DATA argument in one pass, and stores them as one text in the cache.

An interrupted ingestion continues at the first unfinished file, or inside it if it is plain. If two processes ingest
the same sources, the second waits and finds the result of the first.
"""

import codecs
import os
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from filelock import FileLock, Timeout

from charladder.atomic_io import move_into_place, remove_stale_parts
from charladder.text.archives import DamagedArchive, is_archive, read_chunks, unpack
from charladder.text.binary_files import is_binary, peek
from charladder.text.cache import (
    SECONDS_PER_DAY,
    ProgressCallback,
    cache_subfolder,
    cache_write_errors,
    no_progress,
    read_record,
    write_record,
)
from charladder.text.cached_texts import (
    CachedText,
    find_intact,
    has_valid_ends,
    make_cached_text,
    request_key,
    text_path,
)
from charladder.text.encodings import find_codec, recode_to_utf8
from charladder.text.file_reader import bytes_read, open_source, source_size
from charladder.text.integrity import mark_verified
from charladder.text.partial_file import PartialFile
from charladder.text.source_stream import is_left_out
from charladder.text.sources import Source, fingerprint

JOURNAL_SECONDS = 5.0  # between two writes of the journal


@dataclass(frozen=True)
class ExpectedText:
    """The length in bytes and the digests, by algorithm, that the text of a named corpus must have."""

    bytes: int
    digests: dict[str, str]


@dataclass
class _IngestProgress:
    """The state of an ingestion, as the journal stores it.

    sources_done: finished sources. offset: bytes read of the next one, if it is plain. written, sha256: of the partial
    file. include_binary: binary files are read too; otherwise their names are in left_out.
    """

    sources_done: int = 0
    offset: int = 0
    written: int = 0
    sha256: str = ""
    names: list[str] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    include_binary: bool = False


def ingest_sources(
    what: str,
    sources: list[Source],
    encoding: str = "utf-8",
    on_progress: ProgressCallback = no_progress,
    expected: ExpectedText | None = None,
    include_binary: bool = False,
) -> CachedText:
    """Returns the text of `sources`, concatenated, unpacked, and converted to UTF-8 from `encoding`.

    Binary files of a folder, a pattern or an archive are left out, unless `include_binary` is set or all files are
    binary. `what` identifies the DATA: it is the same for the same sources. Raises UserError for a source that cannot
    be read, unpacked or decoded, that changes while it is read, or that is not as expected; the cache then keeps
    nothing of it.
    """
    codec, include_binary = find_codec(encoding), include_binary or expected is not None
    request = f"{what} with all files" if include_binary and expected is None else what
    record = cache_subfolder("sources") / f"{request_key(request, codec.name if codec else '')}.json"
    files = fingerprint(sources)
    include_binary = include_binary or files is None  # a stream cannot be read a second time

    def ingest(record: Path) -> CachedText:
        text = _ingest_locked(record, sources, files, codec, on_progress, expected, include_binary)
        if text.bytes or not text.left_out:
            return text
        return _ingest_locked(record, sources, files, codec, on_progress, expected, True)

    if files is None:  # no other process reads this stream, and no later one recognises it
        return ingest(record.with_stem(f"{record.stem}-{os.getpid()}-{time.monotonic_ns()}"))
    if (known := find_intact(record, files, on_progress)) is not None:
        return known
    with cache_write_errors():
        lock = FileLock(record.with_suffix(".lock"))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            on_progress("waiting for another process that reads the same text", 0, None)
            lock.acquire()
    try:
        return find_intact(record, files, on_progress) or ingest(record)
    finally:
        lock.release()


def _ingest_locked(
    record: Path,
    sources: list[Source],
    files: str | None,
    codec: codecs.CodecInfo | None,
    on_progress: ProgressCallback,
    expected: ExpectedText | None,
    include_binary: bool,
) -> CachedText:
    """Copies `sources` to a partial file and renames it to its digest. The caller holds the lock."""
    for folder in (record.parent, cache_subfolder("texts")):
        remove_stale_parts(folder, seconds=SECONDS_PER_DAY)  # younger ones may belong to a running process
    # This process holds the lock, so the writers of these were killed. Version 0.1.0 wrote them without a dot.
    remove_stale_parts(record.parent, f".{record.stem}.*.part", f"{record.stem}.*.part")
    journal, path = record.with_suffix(".part.json"), record.with_suffix(".part")
    progress = _read_journal(journal, path, files, len(sources), include_binary)
    algorithms = tuple(dict.fromkeys(("sha256", *(expected.digests if expected else ()))))
    with cache_write_errors():
        part = PartialFile(path, progress.written, algorithms)
        if progress.written and part.hashes["sha256"].hexdigest() != progress.sha256:  # the partial file is damaged
            part.discard()
            progress = _IngestProgress(include_binary=progress.include_binary)
            part = PartialFile(path, 0, algorithms)
    notes: list[str] = []
    try:
        _copy_sources(part, sources, codec, progress, journal, files, notes, on_progress)
        if progress.left_out and not part.size:  # all files are binary: the caller starts again and includes them
            part.discard()
            journal.unlink(missing_ok=True)
            return make_cached_text("", 0, [], [], progress.left_out)
        part.close()
        sha256 = part.hashes["sha256"].hexdigest()
        if expected is not None:
            _check_expected(part, expected, sources[0].name)
        target = text_path(sha256)
        with cache_write_errors():
            move_into_place(path, target)
            mark_verified(target, sha256)
        journal.unlink(missing_ok=True)
        if files is not None and fingerprint(sources) == files:
            known = {"fingerprint": files, "sha256": sha256, "bytes": part.size}
            known |= {"names": progress.names, "ends": progress.ends, "left_out": progress.left_out}
            write_record(record, known)
        streamed = len(sources) == 1 and source_size(sources[0]) is None
        if streamed:
            write_record(target.with_suffix(".stream.json"), {"names": progress.names, "ends": progress.ends})
        text = make_cached_text(sha256, part.size, progress.names, progress.ends, progress.left_out, notes)
        return replace(text, streamed=streamed)
    except KeyboardInterrupt:
        part.discard(keep_file=journal.exists())  # the next ingestion continues from the journal
        raise
    except BaseException:
        part.discard()
        journal.unlink(missing_ok=True)
        raise


def _read_journal(journal: Path, part: Path, files: str | None, sources: int, include_binary: bool) -> _IngestProgress:
    """The progress of an interrupted ingestion of the same files, or a fresh one.

    An interrupted ingestion that included binary files continues to include them.
    """
    fresh = _IngestProgress(include_binary=include_binary)
    before = read_record(
        journal, fingerprint=str, sources_done=int, offset=int, written=int, sha256=str, names=list, ends=list,
        left_out=list, include_binary=bool,
    )  # fmt: skip
    if files is None or before is None or before.pop("fingerprint") != files or not part.is_file():
        return fresh
    if include_binary and not before["include_binary"]:
        return fresh
    has_ends = has_valid_ends(before, before["written"])
    last_end = before["ends"][-1] if before["ends"] and has_ends else 0
    is_valid = (
        has_ends
        and 0 <= before["sources_done"] <= sources
        and before["written"] == last_end + before["offset"] <= part.stat().st_size
    )
    return _IngestProgress(**before) if is_valid else fresh


def _copy_sources(
    part: PartialFile,
    sources: list[Source],
    codec: codecs.CodecInfo | None,
    progress: _IngestProgress,
    journal: Path,
    files: str | None,
    notes: list[str],
    on_progress: ProgressCallback,
) -> None:
    """Copies the remaining sources to `part`, updates `progress`, and writes it to the journal from time to time."""
    sizes = [source_size(source) for source in sources]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    last_write = time.monotonic()

    def write_journal() -> None:
        nonlocal last_write
        if files is not None and time.monotonic() - last_write >= JOURNAL_SECONDS:
            with cache_write_errors():
                part.file.flush()
                os.fsync(part.file.fileno())  # what the journal counts must survive a power failure
            progress.written, progress.sha256 = part.size, part.hashes["sha256"].hexdigest()
            write_record(journal, {"fingerprint": files, **asdict(progress)})
            last_write = time.monotonic()

    done = sum(size or 0 for size in sizes[: progress.sources_done])
    for source, size in zip(sources[progress.sources_done :], sizes[progress.sources_done :], strict=True):
        source_codec = None if source.is_utf8 else codec
        plain = source_codec is None and not is_archive(source.file_name)
        skip_binary = not progress.include_binary and not progress.offset
        if skip_binary and is_left_out(source, source_codec):
            progress.left_out.append(source.name)
            done += size or 0
            progress.sources_done += 1
            continue
        with open_source(source, progress.offset, plain, notes) as (file, length):
            one = [(source.name, read_chunks(file, source.name))]
            for name, content in one if plain else unpack(file, source.name, length, source.file_name):
                begin = part.size - progress.offset
                content = recode_to_utf8(content, source_codec, name) if source_codec else content
                if skip_binary and is_archive(source.file_name) and (source.is_listed or name != source.name):
                    first, content = peek(content)
                    if is_binary(first):
                        progress.left_out.append(name)
                        continue
                for chunk in content:
                    part.write(chunk)
                    if plain:
                        progress.offset += len(chunk)
                        write_journal()
                    on_progress("reading", part.size if total is None else done + bytes_read(file), total)
                if part.size > begin:
                    progress.names.append(name)
                    progress.ends.append(part.size)
        done += size or 0
        progress.sources_done, progress.offset = progress.sources_done + 1, 0
        write_journal()
    on_progress("reading", done, total)


def _check_expected(part: PartialFile, expected: ExpectedText, name: str) -> None:
    if part.size != expected.bytes:
        raise DamagedArchive(
            f"{name} unpacks to {part.size:,} bytes and not {expected.bytes:,}; it is not the right file"
        )
    for algorithm, digest in expected.digests.items():
        found = part.hashes[algorithm].hexdigest()
        if found != digest:
            raise DamagedArchive(
                f"{name} has the {algorithm.upper()} {found} and not {digest}; it is not the right file"
            )
