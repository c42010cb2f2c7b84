"""The characters that the network reads in place of an empty prompt."""

from charladder.text import Alphabet

_START_CHARACTERS = "\n", " "  # lines of the training text start after the first, words after the second


def ids_before_empty_prompt(alphabet: Alphabet) -> list[int]:
    """The ids that replace an empty prompt: a newline, or a space if the alphabet has no newline.

    Empty if the alphabet has neither (DNA, for example): the first character is then drawn uniformly, because the
    network predicts nothing without an input.
    """
    for letter in _START_CHARACTERS:
        if not alphabet.letters or letter in alphabet.letters:
            return alphabet.encode(letter.encode()).tolist()
    return []
