"""The commands that `train` and `refit` suggest when they have ended: each works as it is printed."""

import codecs
import shlex
from pathlib import Path

from charladder.run import Run, split_of
from charladder.text import Corpus

READ = 4096  # characters of the text among which a prompt is sought
PROMPT = 24  # characters of a prompt, at most


def commands_after_training(run: Run, corpus: Corpus, budget: str, output: str) -> list[str]:
    """What to do with a trained run. budget: a larger budget, as options; output: the encoding of the terminal."""
    parts = split_of(run.recipe, corpus)
    held_out = next((part for part in ("test", "valid") if parts.part(part)[1] > parts.part(part)[0]), None)
    prompt = own_prompt(corpus, output)
    return [
        f"charladder generate {run.words}{f' {prompt_option(prompt)}' if prompt else ''} --length 400",
        *([f"charladder evaluate {run.words} --split {held_out}"] if held_out else []),
        f"charladder train --resume {shlex.quote(str(run.path))} --extend {budget}",
    ]


def command_after_refit(path: Path) -> str:
    return f"charladder generate {shlex.quote(str(path))} --draft targets"


def prompt_option(prompt: str) -> str:
    """`--prompt` with its value, quoted for a shell; a value that begins with a dash would be taken for an option."""
    return shlex.quote(f"--prompt={prompt}") if prompt.startswith("-") else f"--prompt {shlex.quote(prompt)}"


def own_prompt(corpus: Corpus, output: str = "utf-8") -> str:
    """The beginning of the first line of a text that has a letter or a digit, in whole words; empty where there is none
    in its first characters that can be printed in the encoding `output`, or they are not UTF-8."""
    data = corpus.alphabet.decode(corpus.ids_N[:READ])
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(data)
    except UnicodeDecodeError as error:
        text = data[: error.start].decode()
    for line in text.splitlines():
        line = printable(line.strip(), output)
        if any(map(str.isalnum, line)):
            return line if len(line) <= PROMPT else line[: PROMPT + 1].rpartition(" ")[0] or line[:PROMPT]
    return ""


def printable(text: str, output: str) -> str:
    """A text up to its first character that cannot be printed as it is."""
    for place, letter in enumerate(text):
        if not letter.isprintable() or letter == "\N{REPLACEMENT CHARACTER}" or not encodes(letter, output):
            return text[:place]
    return text


def encodes(letter: str, output: str) -> bool:
    try:
        letter.encode(output)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
