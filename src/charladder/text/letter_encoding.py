"""Encoding of a text as ids of a letter alphabet, and the letter counts from which an alphabet is made.

Both read the text once, in blocks, and store their result in the cache.

Shapes: N bytes of a block, C code points of it, F files.
"""

import bisect
import codecs
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from charladder.errors import UserError
from charladder.text.alphabet import REPLACEMENT, Alphabet, code_points, not_utf8_message
from charladder.text.cache import (
    ProgressCallback,
    atomic_cache_file,
    cache_write_errors,
    no_progress,
    read_record,
    write_record,
)
from charladder.text.cached_texts import CachedText
from charladder.text.integrity import is_intact, mark_verified

BLOCK_BYTES = 1 << 20


def count_letters(text: CachedText, on_progress: ProgressCallback = no_progress) -> dict[str, int]:
    """How often each Unicode character occurs in the text. Raises UserError for text that is not UTF-8."""
    record = text.path.with_suffix(".letters.json")
    counts = read_record(record)
    if not counts or not all(len(letter) == 1 and isinstance(count, int) for letter, count in counts.items()):
        counts_P = np.zeros(0x110000, np.int64)
        for _, points_C in _decode_blocks(text, "counting letters", on_progress):
            counts_P += np.bincount(points_C, minlength=0x110000)
        counts = {chr(point): int(counts_P[point]) for point in np.flatnonzero(counts_P)}
        write_record(record, counts)
    return counts


def encode_text(
    text: CachedText, alphabet: Alphabet, unknown: str, on_progress: ProgressCallback = no_progress
) -> tuple[Path, np.ndarray, int]:
    """Returns the file of the text's ids in `alphabet`, the id at which each of its files ends (F,), and how many
    unknown letters were replaced or dropped.

    Raises UserError for an unknown letter if `unknown` is error, and for text that is not UTF-8.
    """
    alphabet.check_unknown_policy(unknown)
    key = hashlib.sha256(repr((alphabet.letters, unknown, text.ends)).encode()).hexdigest()[:32]
    target = text.path.with_name(f"{text.sha256}-{key}.ids")
    record = read_record(target.with_suffix(".json"), sha256=str, ends=list, unknown=int)
    if record is not None and is_intact(target, record["sha256"], on_progress):
        return target, np.array(record["ends"], np.int64), record["unknown"]
    with atomic_cache_file(target) as part:
        with cache_write_errors():
            file = part.open("wb")
        with file:
            ends, unknown_count, sha256 = _encode_blocks(file, text, alphabet, unknown, on_progress)
    with cache_write_errors():
        mark_verified(target, sha256)
    write_record(target.with_suffix(".json"), {"sha256": sha256, "ends": ends, "unknown": unknown_count})
    return target, np.array(ends, np.int64), unknown_count


def _encode_blocks(
    file: IO[bytes], text: CachedText, alphabet: Alphabet, unknown: str, on_progress: ProgressCallback
) -> tuple[list[int], int, str]:
    """Writes the ids of a text to `file`. Returns the ends of its files in ids, the number of unknown letters, and the
    SHA-256 of the ids."""
    ends: list[int] = []
    bytes_done, ids_done, unknown_count, digest = 0, 0, 0, hashlib.sha256()
    replacement = alphabet.ids_by_code_point_P[ord(REPLACEMENT)]
    for bytes_N, points_C in _decode_blocks(text, "encoding", on_progress):
        ids_C = alphabet.ids_by_code_point_P[points_C]
        unknown_C = ids_C < 0
        starts_character_N = (bytes_N & 0xC0) != 0x80
        if unknown_C.any():
            unknown_count += int(unknown_C.sum())
            if unknown == "error":
                first = int(np.argmax(unknown_C))
                name, position = _locate(text, bytes_done + int(np.flatnonzero(starts_character_N)[first]))
                letter = chr(points_C[first])
                raise alphabet.unknown_letter_error(letter, name, f"byte {position}")
        kept_C = ~unknown_C if unknown == "drop" else np.ones(len(ids_C), bool)
        # the number of ids written before each character of the block, and after the last
        ids_before_C = ids_done + np.concatenate([[0], np.cumsum(kept_C)])
        characters_before_N = np.concatenate([[0], np.cumsum(starts_character_N)])
        ended_files = bisect.bisect_right(text.ends, bytes_done + len(bytes_N))
        for end in text.ends[len(ends) : ended_files]:
            ends.append(int(ids_before_C[characters_before_N[end - bytes_done]]))
        ids_C = np.where(unknown_C, replacement, ids_C)[kept_C]
        data = ids_C.astype(alphabet.dtype).tobytes()
        digest.update(data)
        with cache_write_errors():
            file.write(data)
        ids_done, bytes_done = ids_done + len(ids_C), bytes_done + len(bytes_N)
    with cache_write_errors():
        file.flush()
    return ends, unknown_count, digest.hexdigest()


def _decode_blocks(
    text: CachedText, stage: str, on_progress: ProgressCallback
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the text in blocks of (bytes, code points), each of which ends between two characters.

    Raises UserError with the file and the position of the first byte that is not UTF-8.
    """
    decoder, undecoded, done = codecs.getincrementaldecoder("utf-8")(), b"", 0
    with text.path.open("rb") as file:
        while chunk := file.read(BLOCK_BYTES):
            is_last = done + len(chunk) == text.bytes
            try:
                letters = decoder.decode(chunk, is_last)
            except UnicodeDecodeError as error:
                raise UserError(not_utf8_message(*_locate(text, done - len(undecoded) + error.start))) from None
            data = undecoded + chunk
            undecoded = decoder.getstate()[0]
            yield np.frombuffer(data[: len(data) - len(undecoded)], np.uint8), code_points(letters)
            done += len(chunk)
            on_progress(stage, done, text.bytes)


def _locate(text: CachedText, position: int) -> tuple[str, int]:
    """The file that contains byte `position` of the text, and the position in that file."""
    number = min(bisect.bisect_right(text.ends, position), len(text.ends) - 1)
    return text.names[number], position - (text.ends[number - 1] if number else 0)
