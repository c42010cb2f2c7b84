"""The text of a run, found again by its SHA-256: in the cache, whatever has become of the files that it came from."""

from charladder.text.cache import Report, read_json, room, silent
from charladder.text.ingest import RECORD, IngestedText, cached_text, fit
from charladder.text.integrity import is_intact


def recorded_text(sha256: str, name: str, files: int = 1, report: Report = silent) -> IngestedText | None:
    """The text of this SHA-256 in the cache; None where the cache has no intact copy.

    Where its files end is known from a note about the same text with so many `files`; without one, the text counts as a
    single file called `name`.
    """
    path = cached_text(sha256)
    if not path.is_file() or not is_intact(path, sha256, report):
        return None
    size = path.stat().st_size
    names, ends = (find_files(sha256, size, files) if files > 1 else None) or ([name], [size])
    return IngestedText(path, sha256, size, names, ends)


def find_files(sha256: str, size: int, files: int) -> tuple[list[str], list[int]] | None:
    """Names and ends of the files of a text, by any note in the cache that has so many; None where there is none."""
    stream = read_json(cached_text(sha256).with_suffix(".stream.json"), names=list, ends=list)
    if stream is not None and len(stream["ends"]) == files and fit(stream, size):
        return stream["names"], stream["ends"]
    for note in sorted(room("sources").glob("*.json")):
        known = read_json(note, **RECORD)
        if known is not None and (known["sha256"], known["bytes"], len(known["ends"])) == (sha256, size, files):
            return (known["names"], known["ends"]) if fit(known, size) else None
    return None
