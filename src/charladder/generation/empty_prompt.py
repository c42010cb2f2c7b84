"""What the network reads before the first character of a text whose prompt is empty."""

from charladder.text import Alphabet

_START_CHARACTERS = "\n", " "  # in training, a line begins after the first, and a word after the second


def ids_before_empty_prompt(alphabet: Alphabet) -> list[int]:
    """The ids that are read in place of an empty prompt: a newline, or a space where the alphabet has no newline.

    They are no part of the text. Empty where the alphabet has neither (DNA, say): the first character is then drawn
    uniformly, because the network predicts nothing without an input.
    """
    for letter in _START_CHARACTERS:
        if not alphabet.letters or letter in alphabet.letters:
            return alphabet.encode(letter.encode()).tolist()
    return []
