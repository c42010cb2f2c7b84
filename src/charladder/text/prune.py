"""Pruning of the cache: files that were not used for some days are removed, unless a process uses them now."""

import re
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from charladder.atomic_io import remove
from charladder.text.cache import DAY, cache_folder, read_json
from charladder.text.cache_locks import in_use, pruning

USED = ".used"  # of an empty file beside another, whose time is that of the last use


@dataclass(frozen=True)
class PrunedItem:
    """Files of the cache that belong together. used: when they were used last, in seconds since 1970. why: the reason
    for which they are kept, None where they are not."""

    what: str
    name: str
    files: tuple[Path, ...]
    bytes: int
    used: float
    why: str | None = None


def mark_used(path: Path) -> None:
    """Notes that a file of the cache is used now; nothing happens where the cache cannot be written."""
    with suppress(OSError):
        path.with_name(path.name + USED).touch()


def prune(days: float, rehearsal: bool = False) -> list[PrunedItem]:
    """Removes files of the cache that were not used for `days` days. Returns all items found, removed or kept.

    These are texts with all that was made from them, downloads from a URL, and what an interrupted reading or download
    has left behind. Texts from standard input and downloads by name are kept: they may not be had a second time.
    rehearsal: only says what would be removed. Raises UserError where another process is opening texts.
    """
    if not cache_folder().is_dir():
        return []
    with pruning():
        items = [*texts(days), *downloads(days), *left_behind(days)]
        if rehearsal:
            return items
        done = [item if item.why else removed(item) for item in items]
        remove_notes()
        return done


def texts(days: float) -> list[PrunedItem]:
    """Every text, by the SHA-256 with which the names of its files begin."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in sorted((cache_folder() / "texts").glob("*")):
        if re.match("[0-9a-f]{64}[-.]", path.name) and path.is_file() and not path.name.endswith(".part"):
            groups[path.name[:64]].append(path)
    names = {note["sha256"]: note.get("names", []) for note in notes().values()}
    found = []
    for sha256, files in groups.items():
        stream = next((path for path in files if path.name.endswith(".stream.json")), None)
        if stream is not None:
            names[sha256] = (read_json(stream) or {}).get("names", [])
        why = None if stream is None else "it came from standard input, and cannot be read again"
        if any(in_use(path) for path in files if path.suffix in (".bytes", ".ids")):
            why = "a process is using it"
        found.append(item("text", shown(names.get(sha256, [])) or sha256[:12], files, days, why))
    return found


def downloads(days: float) -> list[PrunedItem]:
    """Every finished download, with the mark of its last use."""
    found = []
    for path in sorted((cache_folder() / "downloads").glob("*")):
        if path.suffix in (".part", ".json", ".lock", USED) or not path.is_file():
            continue
        by_url = re.match("[0-9a-f]{16}-(.+)", path.name)
        why = None if by_url else "it may have been put there by hand"
        files = [one for one in (path, path.with_name(path.name + USED)) if one.exists()]
        found.append(item("download", by_url[1] if by_url else path.name, files, days, why))
    return found


def left_behind(days: float) -> list[PrunedItem]:
    """What was begun and not finished: no process is at it, for none opens texts now."""
    folders = (cache_folder() / name for name in ("texts", "sources", "downloads"))
    parts = [path for folder in folders for path in sorted(folder.glob("*.part*"))]
    return [item("unfinished file", path.name, [*path.rglob("*"), path], days, None) for path in parts]


def item(what: str, name: str, files: list[Path], days: float, why: str | None) -> PrunedItem:
    """Files as an item, which is kept where it was used lately."""
    used = max(path.stat().st_mtime for path in files)
    if why is None and time.time() - used < days * DAY:
        why = f"it was used less than {days:g} days ago"
    return PrunedItem(what, name, tuple(files), sum(path.stat().st_size for path in files if path.is_file()), used, why)


def removed(item: PrunedItem) -> PrunedItem:
    """Removes an item; where that fails, it is kept, and says why."""
    for path in item.files:
        try:
            remove(path)
        except OSError as error:
            return replace(item, why=f"it cannot be removed: {error.strerror}")
    return item


def remove_notes() -> None:
    """Removes notes about texts that are not in the cache any more, and locks of what there are no notes of."""
    folder = cache_folder() / "sources"
    for path, note in notes().items():
        if not (cache_folder() / "texts" / f"{note['sha256']}.bytes").exists():
            path.unlink(missing_ok=True)
    for lock in folder.glob("*.lock"):
        if not any(folder.glob(f"{lock.stem}.*json")) and not lock.with_suffix(".part").exists():
            lock.unlink(missing_ok=True)


def notes() -> dict[Path, dict[str, Any]]:
    """The notes about which files gave which text."""
    found = {path: read_json(path) for path in (cache_folder() / "sources").glob("*.json")}
    return {path: note for path, note in found.items() if note is not None and isinstance(note.get("sha256"), str)}


def shown(names: list[str]) -> str:
    """The files of a text, in short."""
    return "" if not names else names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1:,} more"
