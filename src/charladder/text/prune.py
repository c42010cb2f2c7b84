"""Pruning of the cache: removes files that were not used for some days, unless a process is using them."""

import re
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from charladder.atomic_io import remove
from charladder.text.cache import SECONDS_PER_DAY, cache_folder, read_record
from charladder.text.cache_locks import exclusive_cache_lock, is_in_use

_PART_SUFFIXES = ".part", ".part.json"
USED_SUFFIX = ".used"  # of an empty file beside another; its modification time is the time of the last use
_DOWNLOAD_SUFFIXES = *_PART_SUFFIXES, ".lock", USED_SUFFIX  # of files that belong to a download


@dataclass(frozen=True)
class PrunedItem:
    """Files of the cache that belong together.

    last_used: in seconds since 1970. kept_because: why the files are kept, or None if they are removed.
    """

    kind: str
    name: str
    files: tuple[Path, ...]
    bytes: int
    last_used: float
    kept_because: str | None = None


def mark_used(path: Path) -> None:
    """Records that a file of the cache is used now. Does nothing if the cache cannot be written."""
    with suppress(OSError):
        path.with_name(path.name + USED_SUFFIX).touch()


def prune(days: float, dry_run: bool = False) -> list[PrunedItem]:
    """Removes files of the cache that were not used for `days` days. Returns all items, removed or kept.

    Items are texts with the files made from them, downloads, and unfinished conversions and downloads. Texts from
    standard input and files that the user may have put there are kept, because they may not be available again. With
    `dry_run`, nothing is removed. Raises UserError if another process is opening texts.
    """
    if not cache_folder().is_dir():
        return []
    with exclusive_cache_lock():
        items = [*_text_items(days), *_download_items(days), *_unfinished_items(days)]
        if dry_run:
            return items
        items = [item if item.kept_because else _remove_item(item) for item in items]
        _remove_stale_records()
        return items


def _text_items(days: float) -> list[PrunedItem]:
    """One item for each text: the files whose names begin with its SHA-256."""
    files_by_digest: dict[str, list[Path]] = defaultdict(list)
    for path in sorted((cache_folder() / "texts").glob("*")):
        if re.match("[0-9a-f]{64}[-.]", path.name) and path.is_file() and not path.name.endswith(".part"):
            files_by_digest[path.name[:64]].append(path)
    names = {record["sha256"]: record.get("names", []) for record in _read_text_records().values()}
    items = []
    for sha256, files in files_by_digest.items():
        stream = next((path for path in files if path.name.endswith(".stream.json")), None)
        if stream is not None:
            names[sha256] = (read_record(stream) or {}).get("names", [])
        reason = None if stream is None else "it came from standard input, and cannot be read again"
        if any(is_in_use(path) for path in files if path.suffix in (".bytes", ".ids")):
            reason = "a process is using it"
        name = _summarize_names(names.get(sha256, [])) or sha256[:12]
        items.append(_make_item("text", name, files, days, reason))
    return items


def _download_items(days: float) -> list[PrunedItem]:
    """One item for each finished download, with its USED_SUFFIX file."""
    items = []
    for path in sorted((cache_folder() / "downloads").glob("*")):
        if path.name.endswith(_DOWNLOAD_SUFFIXES) or not path.is_file():
            continue
        by_url = re.match("[0-9a-f]{16}-(.+)", path.name)
        reason = None if by_url else "it may have been put there by hand"
        files = [one for one in (path, path.with_name(path.name + USED_SUFFIX)) if one.exists()]
        items.append(_make_item("download", by_url[1] if by_url else path.name, files, days, reason))
    return items


def _unfinished_items(days: float) -> list[PrunedItem]:
    """One item for each partial file. The caller holds the exclusive lock, so no process is writing them."""
    folders = (cache_folder() / name for name in ("texts", "sources", "downloads"))
    parts = [path for folder in folders for path in sorted(folder.glob("*")) if path.name.endswith(_PART_SUFFIXES)]
    return [_make_item("unfinished file", path.name, [*path.rglob("*"), path], days, None) for path in parts]


def _make_item(kind: str, name: str, files: list[Path], days: float, reason: str | None) -> PrunedItem:
    last_used = max(path.stat().st_mtime for path in files)
    if reason is None and time.time() - last_used < days * SECONDS_PER_DAY:
        reason = f"it was used less than {days:g} days ago"
    size = sum(path.stat().st_size for path in files if path.is_file())
    return PrunedItem(kind, name, tuple(files), size, last_used, reason)


def _remove_item(item: PrunedItem) -> PrunedItem:
    """Removes the files of an item. Returns it, with `kept_because` set if that failed."""
    for path in item.files:
        try:
            remove(path)
        except OSError as error:
            return replace(item, kept_because=f"it cannot be removed: {error.strerror}")
    return item


def _remove_stale_records() -> None:
    """Removes records of texts that the cache no longer has, and lock files without a record."""
    folder = cache_folder() / "sources"
    for path, record in _read_text_records().items():
        if not (cache_folder() / "texts" / f"{record['sha256']}.bytes").exists():
            path.unlink(missing_ok=True)
    for lock in folder.glob("*.lock"):
        if not any(folder.glob(f"{lock.stem}.*json")) and not lock.with_suffix(".part").exists():
            lock.unlink(missing_ok=True)


def _read_text_records() -> dict[Path, dict[str, Any]]:
    """The records of which sources gave which text, by path."""
    records = {path: read_record(path) for path in (cache_folder() / "sources").glob("*.json")}
    return {path: one for path, one in records.items() if one is not None and isinstance(one.get("sha256"), str)}


def _summarize_names(names: list[str]) -> str:
    return "" if not names else names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1:,} more"
