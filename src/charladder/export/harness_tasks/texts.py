"""The documents and the metric of the tasks: one document, a text."""

import math
from typing import Any

import numpy as np

from charladder.errors import UserError
from charladder.text import open_corpus, split

_HELD_OUT = 0.05  # of text8 and enwik8: the standard 90M / 5M / 5M
_SPLITS = "valid", "test", "all"


def load_text(
    data: str | None = None,
    split: str = "all",
    encoding: str = "utf-8",
    characters: int | None = None,
    prefix_symbols: int | None = None,
    **_: Any,
) -> Any:
    """The text as a dataset, whose split `test` has one document. The harness passes the metadata of the task.

    data: a file, folder, URL or corpus, as in `evaluate`. split: `all`, or the `valid` or `test` part, of 5% each.
    characters: scores only the first bytes, up to this number. prefix_symbols: see `scored_text`. Raises UserError for
    data that cannot be read as text.
    """
    from datasets import Dataset  # pyright: ignore[reportMissingImports]

    if data is None:
        raise UserError("the task charladder_text has no text; give one with --metadata data=FILE")
    if split not in _SPLITS:
        raise UserError(field="split", value=split, rule=f"it must be one of {', '.join(_SPLITS)}")
    if characters is not None and characters < 1:
        raise UserError(field="characters", value=characters, rule="it must be at least 1")
    text = read_text(str(data), split, encoding, characters)
    if prefix_symbols is not None and (len(text) < 2 or not text[0].isascii()):
        raise UserError(
            f"{data} does not begin with an ASCII character and another one, which prefix_symbols needs; leave it out"
        )
    return {"test": Dataset.from_list([{"text": text, "prefix_symbols": int(prefix_symbols or 0)}])}


def read_text(data: str, part: str, encoding: str, limit: int | None) -> str:
    """A part of a text, at most `limit` bytes of it. Incomplete UTF-8 at both of its ends is left out."""
    ids_N = open_corpus(data, encoding=encoding).ids_N
    begin, end = (0, len(ids_N)) if part == "all" else split(len(ids_N), _HELD_OUT, _HELD_OUT).part(part)
    end = end if limit is None else min(end, begin + limit)
    inside_N = (np.asarray(ids_N[begin : begin + 4]) & 0xC0) == 0x80
    chunk = ids_N[begin + (int(inside_N.argmin()) if begin and inside_N.size else 0) : end].tobytes()
    try:
        return chunk.decode()
    except UnicodeDecodeError as error:
        if end < len(ids_N) and error.reason == "unexpected end of data":
            return chunk[: error.start].decode()
        raise UserError(
            f"{data} is not UTF-8 at byte {begin + error.start}, and tasks of lm-evaluation-harness are Unicode texts; "
            "give its encoding, or use `charladder evaluate`, which takes any bytes"
        ) from None


def scored_text(doc: dict[str, Any]) -> str:
    """The text that the model scores. With prefix_symbols, the first character is left out: it must be the model's
    prefix token, and it costs log2(prefix_symbols) bits, as in `evaluate`."""
    return doc["text"][1:] if doc["prefix_symbols"] else doc["text"]


def score_text(doc: dict[str, Any], results: tuple[float]) -> dict[str, tuple[float, int]]:
    """The metrics as pairs of a log-likelihood in nats and a number of bytes or characters."""
    (nats,) = results
    if doc["prefix_symbols"]:
        nats -= math.log(doc["prefix_symbols"])
    text = doc["text"]
    return {"bits_per_byte": (nats, len(text.encode())), "bits_per_unicode_character": (nats, len(text))}
