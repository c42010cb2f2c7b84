"""Text: alphabets, corpora, splits and windows. Knows nothing of models."""

from charladder.text.alphabet import POLICIES, Alphabet, learn_letters
from charladder.text.cache import Report, cache_folder, silent
from charladder.text.corpus import Corpus, NotOpened, ensure_cached, exists, not_fetched, open_corpus, open_recorded
from charladder.text.datasets import corpora
from charladder.text.ingest import cached_text
from charladder.text.integrity import is_intact
from charladder.text.memory_map import cut_short, release
from charladder.text.prune import PrunedItem, prune
from charladder.text.sources import is_url
from charladder.text.split import Split, split
from charladder.text.windows import Windows

__all__ = [
    "POLICIES",
    "Alphabet",
    "Corpus",
    "NotOpened",
    "PrunedItem",
    "Report",
    "Split",
    "Windows",
    "cache_folder",
    "cached_text",
    "corpora",
    "cut_short",
    "ensure_cached",
    "exists",
    "is_intact",
    "is_url",
    "learn_letters",
    "not_fetched",
    "open_corpus",
    "open_recorded",
    "prune",
    "release",
    "silent",
    "split",
]
