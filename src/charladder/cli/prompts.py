"""Prompts from the command line and from files, in the bytes that a run reads."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from charladder.errors import UserError, suggest_names
from charladder.generation.text_generator import Prompt
from charladder.run import Run
from charladder.text.encodings import find_codec, recode_to_utf8

_MAX_LINE_BYTES = 1 << 26  # bytes of a line of prompts
_PROMPT_FIELDS = "prompt", "seed", "length", "stop", "id"


def choose_encoding(run: Run, encoding: str | None, has_prompt_file: bool) -> str:
    """The encoding of the bytes that a run reads and writes: `asked` where its text was taken as bytes, else UTF-8.

    for_file: whether a file is read as a prompt, which may be in another. Raises UserError where `asked` is no
    encoding, has no use, or cannot be the one of a part of a text.
    """
    if encoding is None:
        return "utf-8"
    find_codec(encoding)
    if not _reads_raw_bytes(run):
        if not has_prompt_file:
            raise UserError(
                f"{run.path} reads and writes Unicode characters, and --encoding is for runs trained on bytes as they "
                "are, or for --prompt-file; leave it out"
            )
        return "utf-8"
    if "".encode(encoding):
        raise UserError(
            f"--encoding {encoding} puts a mark before a text, which a prompt or a stop string has not; give the "
            "encoding "
            "without the mark, as utf-16-le or utf-8"
        )
    return encoding


def _reads_raw_bytes(run: Run) -> bool:
    """Whether a run reads the bytes of its files as they are: its alphabet is bytes, and nothing was recoded."""
    return not run.alphabet.letters and find_codec(run.recipe.text.encoding) is None


def _encode(text: str, encoding: str, where: str) -> bytes:
    """A text in the encoding of a run. Raises UserError for a character that it cannot write."""
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as error:
        raise UserError(f"{where} has the character {text[error.start]!r}, which {encoding} cannot write") from None


def encode_argument(word: str, encoding: str, where: str) -> bytes:
    """The same for a word of the command line, whose bytes may be no UTF-8; these are then taken as they are."""
    data = os.fsencode(word)
    if find_codec(encoding) is None:
        return data
    return _encode(data.decode("utf-8", "surrogateescape"), encoding, where)


def read_prompt_file(name: str, run: Run, encoding: str | None) -> Prompt:
    """All of a file as a prompt; recoded to UTF-8 where the run does not read bytes as they are."""
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
    """The lines of a file of prompts: what each says, and its prompt. Raises UserError that names the line."""
    found = []
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
        found.append((fields, _parse_prompt(fields, encoding, where)))
    if not found:
        raise UserError(f"--prompts {name} has no prompts; give a line of JSON for each")
    return found


def _unknown_field_text(fields: dict[str, Any]) -> str:
    """The end of a sentence about the first field of a line that no prompt has; empty where there is none."""
    strange = next((name for name in fields if name not in _PROMPT_FIELDS), None)
    return "" if strange is None else f": unknown field {strange!r}{suggest_names(strange, _PROMPT_FIELDS)}"


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
            raise UserError(f"{where}: the prompt or a stop string has half a surrogate pair, which is no text")
    data = _encode(fields["prompt"], encoding, f"{where}: the prompt")
    own = None if stops is None else tuple(_encode(stop, encoding, f"{where}: stop") for stop in stops)
    return Prompt(data, numbers.get("length"), numbers.get("seed"), own, where)
