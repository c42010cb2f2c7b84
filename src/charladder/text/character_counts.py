"""Letters of a whole text: counted, and spelled in an alphabet, once, a stretch at a time.

Shapes: N bytes of a stretch, C code points of it, F files.
"""

import bisect
import codecs
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from charladder.errors import UserError
from charladder.text.alphabet import UNKNOWN, Alphabet, code_points, not_utf8
from charladder.text.cache import Report, new_file, read_json, silent, write_json, writing
from charladder.text.ingest import IngestedText
from charladder.text.integrity import is_intact, mark_verified

STRETCH = 1 << 20


def decoded(text: IngestedText, what: str, report: Report) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The text as (bytes, code points), stretch by stretch, each ending between two characters.

    Raises UserError that names the file and the byte which is not UTF-8.
    """
    decoder, waiting, done = codecs.getincrementaldecoder("utf-8")(), b"", 0
    with text.path.open("rb") as file:
        while chunk := file.read(STRETCH):
            last = done + len(chunk) == text.bytes
            try:
                letters = decoder.decode(chunk, last)
            except UnicodeDecodeError as error:
                raise UserError(not_utf8(*place_in(text, done - len(waiting) + error.start))) from None
            held = decoder.getstate()[0]
            whole = waiting + chunk
            whole = whole[: len(whole) - len(held)]
            yield np.frombuffer(whole, np.uint8), code_points(letters)
            waiting, done = held, done + len(chunk)
            report(what, done, text.bytes)


def place_in(text: IngestedText, place: int) -> tuple[str, int]:
    """The file in which byte `place` of the text lies, and which byte of that file it is."""
    number = bisect.bisect_right(text.ends, place)
    number = min(number, len(text.ends) - 1)
    return text.names[number], place - (text.ends[number - 1] if number else 0)


def count_letters(text: IngestedText, report: Report = silent) -> dict[str, int]:
    """How often each Unicode character occurs; kept in the cache."""
    known = text.path.with_suffix(".letters.json")
    counts = read_json(known)
    if not counts or not all(len(letter) == 1 and isinstance(count, int) for letter, count in counts.items()):
        counts_P = np.zeros(0x110000, np.int64)
        for _, points_C in decoded(text, "counting letters", report):
            counts_P += np.bincount(points_C, minlength=0x110000)
        counts = {chr(point): int(counts_P[point]) for point in np.flatnonzero(counts_P)}
        write_json(known, counts)
    return counts


def spell(
    text: IngestedText, alphabet: Alphabet, unknown: str, report: Report = silent
) -> tuple[Path, np.ndarray, int]:
    """The file of the text's ids in `alphabet`, where each of its files ends in them (F,), and how many letters were
    unknown (replaced or dropped). Raises UserError for an unknown letter where `unknown` is error.
    """
    alphabet.check_policy(unknown)
    mark = hashlib.sha256(repr((alphabet.letters, unknown, text.ends)).encode()).hexdigest()[:32]
    target = text.path.with_name(f"{text.sha256}-{mark}.ids")
    facts = read_json(target.with_suffix(".json"), sha256=str, ends=list, unknown=int)
    if facts is not None and is_intact(target, facts["sha256"], report):
        return target, np.array(facts["ends"], np.int64), facts["unknown"]
    with new_file(target) as part:
        with writing():
            file = part.open("wb")
        with file:
            ends, strange, sha256 = spell_to(file, text, alphabet, unknown, report)
    with writing():
        mark_verified(target, sha256)
    write_json(target.with_suffix(".json"), {"sha256": sha256, "ends": ends, "unknown": strange})
    return target, np.array(ends, np.int64), strange


def spell_to(
    file: IO[bytes], text: IngestedText, alphabet: Alphabet, unknown: str, report: Report
) -> tuple[list[int], int, str]:
    """Writes the ids of a text. Returns where its files end in them, how many letters were unknown, and the SHA-256."""
    ends: list[int] = []
    done, spelled, strange, mark = 0, 0, 0, hashlib.sha256()
    stand_in = alphabet.table_P[ord(UNKNOWN)]
    for bytes_N, points_C in decoded(text, "spelling", report):
        ids_C = alphabet.table_P[points_C]
        outside_C = ids_C < 0
        begins_N = (bytes_N & 0xC0) != 0x80
        if outside_C.any():
            strange += int(outside_C.sum())
            if unknown == "error":
                first = int(np.argmax(outside_C))
                where, place = place_in(text, done + int(np.flatnonzero(begins_N)[first]))
                letter = chr(points_C[first])
                raise alphabet.unknown_letter_error(letter, where, f"byte {place}")
        kept_C = ~outside_C if unknown == "drop" else np.ones(len(ids_C), bool)
        # how many ids have been written before each character of the stretch, and after the last
        before_C = spelled + np.concatenate([[0], np.cumsum(kept_C)])
        characters_N = np.concatenate([[0], np.cumsum(begins_N)])
        upto = bisect.bisect_right(text.ends, done + len(bytes_N))
        for end in text.ends[len(ends) : upto]:
            ends.append(int(before_C[characters_N[end - done]]))
        ids_C = np.where(outside_C, stand_in, ids_C)[kept_C]
        data = ids_C.astype(alphabet.dtype).tobytes()
        mark.update(data)
        with writing():
            file.write(data)
        spelled, done = spelled + len(ids_C), done + len(bytes_N)
    with writing():
        file.flush()
    return ends, strange, mark.hexdigest()
