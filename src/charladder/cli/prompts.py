"""Prompts from the command line and from files, as bytes in the encoding of a run."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from charladder.errors import UserError, suggest_names
from charladder.generation.text_generator import Prompt
from charladder.run import Run
from charladder.text.encodings import find_codec, recode_to_utf8

_MAX_LINE_BYTES = 1 << 26
_PROMPT_FIELDS = "prompt", "seed", "length", "stop", "id"


def choose_encoding(run: Run, encoding: str | None, has_prompt_file: bool) -> str:
    """The encoding of the bytes that a run reads and writes: `encoding` if it was trained on raw bytes, else UTF-8.

    has_prompt_file: whether --prompt-file is given, which `encoding` then belongs to. Raises UserError if `encoding` is
    unknown, has no effect, or begins a text with a byte order mark.
    """
    if encoding is None:
        return "utf-8"
    find_codec(encoding)
    if not _reads_raw_bytes(run):
        if not has_prompt_file:
            raise UserError(
                f"{run.path} reads and writes Unicode characters, and --encoding is for runs trained on raw bytes or "
                "for --prompt-file; leave it out"
            )
        return "utf-8"
    if "".encode(encoding):
        raise UserError(
            f"--encoding {encoding} begins a text with a byte order mark, which prompts and stop strings lack; give "
            "an encoding without it, such as utf-16-le or utf-8"
        )
    return encoding


def _reads_raw_bytes(run: Run) -> bool:
    """Whether a run was trained on the unconverted bytes of its files."""
    return not run.alphabet.letters and find_codec(run.recipe.text.encoding) is None


def _encode(text: str, encoding: str, where: str) -> bytes:
    """Encodes a text. Raises UserError for a character that the encoding lacks."""
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as error:
        raise UserError(f"{where} has the character {text[error.start]!r}, which {encoding} cannot write") from None


def encode_argument(word: str, encoding: str, where: str) -> bytes:
    """Encodes an argument of the command line; its bytes stay unchanged if the encoding is UTF-8."""
    data = os.fsencode(word)
    if find_codec(encoding) is None:
        return data
    return _encode(data.decode("utf-8", "surrogateescape"), encoding, where)


def read_prompt_file(name: str, run: Run, encoding: str | None) -> Prompt:
    """Reads a file as a prompt; converts it to UTF-8 unless the run was trained on raw bytes."""
    data, codec = _read_file(name, "--prompt-file"), find_codec(encoding or "utf-8")
    if codec is not None and not _reads_raw_bytes(run):
        data = b"".join(recode_to_utf8(iter([data]), codec, name))
    return Prompt(data, where=name)


def _read_file(name: str, option: str) -> bytes:
    try:
        if name != "-":
            return Path(name).read_bytes()
        if sys.stdin is None:
            raise UserError(f"{option} -: there is no standard input to read; give a file")
        return sys.stdin.buffer.read()
    except OSError as error:
        raise UserError(f"{option} {name} cannot be read: {error.strerror}") from None


def read_prompts(name: str, encoding: str) -> list[tuple[dict[str, Any], Prompt]]:
    """The fields and the prompt of each line of a file. Raises UserError that names the line."""
    prompts = []
    for number, line in enumerate(_read_file(name, "--prompts").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            value = json.loads(line) if len(line) < _MAX_LINE_BYTES else None
        except (ValueError, RecursionError):
            value = None
        fields = value if isinstance(value, dict) else {"prompt": value}
        if not isinstance(fields.get("prompt"), str):
            raise UserError(
                f"{where}: not a JSON string, or an object with the string `prompt`{_unknown_field_text(fields)}"
            )
        if _unknown_field_text(fields):
            raise UserError(f"{where}{_unknown_field_text(fields)}")
        prompts.append((fields, _parse_prompt(fields, encoding, where)))
    if not prompts:
        raise UserError(f"--prompts {name} has no prompts; give a line of JSON for each")
    return prompts


def _unknown_field_text(fields: dict[str, Any]) -> str:
    """The end of an error message about the first unknown field of a line; empty if all are known."""
    unknown = next((name for name in fields if name not in _PROMPT_FIELDS), None)
    return "" if unknown is None else f": unknown field {unknown!r}{suggest_names(unknown, _PROMPT_FIELDS)}"


def _parse_prompt(fields: dict[str, Any], encoding: str, where: str) -> Prompt:
    numbers = {name: fields[name] for name in ("seed", "length") if name in fields}
    for name, value in numbers.items():
        if type(value) is not int:
            raise UserError(f"{where}: {name} is {json.dumps(value)}; it must be a whole number")
    stops = fields.get("stop")
    stops = [stops] if isinstance(stops, str) else stops
    if stops is not None and not (isinstance(stops, list) and all(isinstance(stop, str) for stop in stops)):
        raise UserError(f"{where}: stop is neither a string nor a list of strings")
    for text in (fields["prompt"], *(stops or ())):
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UserError(
                f"{where}: the prompt or a stop string has half of a surrogate pair, which cannot be encoded"
            )
    data = _encode(fields["prompt"], encoding, f"{where}: the prompt")
    encoded_stops = None if stops is None else tuple(_encode(stop, encoding, f"{where}: stop") for stop in stops)
    return Prompt(data, numbers.get("length"), numbers.get("seed"), encoded_stops, where)
