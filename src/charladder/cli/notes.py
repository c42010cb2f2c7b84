"""Notes on standard error: facts that the user should know and that stop no command."""

import sys

from charladder.cli.terminal import escape_unprintable
from charladder.text import Corpus


def print_note(sentence: str) -> None:
    """Prints one line on standard error. Names in it may come from an archive, so control characters are escaped."""
    print(f"note: {escape_unprintable(sentence)}", file=sys.stderr)


def print_text_notes(corpus: Corpus) -> None:
    """Prints how the text was read, where that is not what the user may expect."""
    for note in corpus.notes:
        print_note(note)
    if corpus.unknown:
        print_note(f"{corpus.unknown:,} letters of {corpus.name} are outside the alphabet, and replaced or dropped")
