"""Text: alphabets, corpora, splits and windows. Knows nothing of models."""

from charladder.text.alphabet import Alphabet, learn_letters
from charladder.text.corpus import Corpus, open_corpus
from charladder.text.split import Split, split
from charladder.text.windows import Windows

__all__ = ["Alphabet", "Corpus", "Split", "Windows", "learn_letters", "open_corpus", "split"]
