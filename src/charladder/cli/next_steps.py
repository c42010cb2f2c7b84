"""The commands that `train` and `refit` print as next steps."""

import codecs
import shlex
from pathlib import Path

from charladder.run import Run, split_corpus
from charladder.shell_words import quote_path
from charladder.text import Corpus

_MAX_SEARCHED_CHARACTERS = 4096
_MAX_PROMPT_CHARACTERS = 24


def commands_after_training(run: Run, corpus: Corpus, budget: str, encoding: str) -> list[str]:
    """Commands for a trained run. budget: a larger budget, as options. encoding: of the terminal."""
    parts = split_corpus(run.recipe, corpus)
    held_out = next((part for part in ("test", "valid") if parts.part(part)[1] > parts.part(part)[0]), None)
    prompt = find_prompt(corpus, encoding)
    return [
        f"charladder generate {run.command_arguments}{f' {_prompt_option(prompt)}' if prompt else ''} --length 400",
        *([f"charladder evaluate {run.command_arguments} --split {held_out}"] if held_out else []),
        f"charladder train --resume {quote_path(run.path)} --extend {budget}",
    ]


def command_after_refit(path: Path) -> str:
    return f"charladder generate {quote_path(path)} --draft targets"


def _prompt_option(prompt: str) -> str:
    """--prompt with its value, quoted for a shell. A value that begins with a dash needs `=`."""
    return shlex.quote(f"--prompt={prompt}") if prompt.startswith("-") else f"--prompt {shlex.quote(prompt)}"


def find_prompt(corpus: Corpus, encoding: str = "utf-8") -> str:
    """The beginning, in complete words, of the first line of a text that has a letter or digit.

    Empty if the first characters of the text have no such line that is UTF-8 and printable in `encoding`.
    """
    data = corpus.alphabet.decode(corpus.ids_N[:_MAX_SEARCHED_CHARACTERS])
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(data)
    except UnicodeDecodeError as error:
        text = data[: error.start].decode()
    for line in text.splitlines():
        line = _printable_prefix(line.strip(), encoding)
        if any(map(str.isalnum, line)):
            return (
                line
                if len(line) <= _MAX_PROMPT_CHARACTERS
                else line[: _MAX_PROMPT_CHARACTERS + 1].rpartition(" ")[0] or line[:_MAX_PROMPT_CHARACTERS]
            )
    return ""


def _printable_prefix(text: str, encoding: str) -> str:
    """A text up to its first character that is not printable."""
    for index, letter in enumerate(text):
        if not letter.isprintable() or letter == "\N{REPLACEMENT CHARACTER}" or not _is_encodable(letter, encoding):
            return text[:index]
    return text


def _is_encodable(letter: str, encoding: str) -> bool:
    try:
        letter.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
