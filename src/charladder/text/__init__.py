"""Text: alphabets, corpora, splits and windows."""

from charladder.text.alphabet import UNKNOWN_POLICIES, Alphabet, learn_letters
from charladder.text.cache import ProgressCallback, cache_folder, no_progress
from charladder.text.cached_texts import text_path
from charladder.text.corpus import (
    Corpus,
    DataNotOpened,
    check_data_exists,
    fetch_url,
    find_text_sources,
    missing_downloads,
    open_corpus,
    open_recorded_corpus,
)
from charladder.text.datasets import list_corpora
from charladder.text.integrity import is_intact
from charladder.text.memory_map import is_truncated, release_pages
from charladder.text.prune import PrunedItem, prune
from charladder.text.sources import is_url
from charladder.text.split import Split, split
from charladder.text.windows import Windows

__all__ = [
    "UNKNOWN_POLICIES",
    "Alphabet",
    "Corpus",
    "DataNotOpened",
    "ProgressCallback",
    "PrunedItem",
    "Split",
    "Windows",
    "cache_folder",
    "check_data_exists",
    "fetch_url",
    "find_text_sources",
    "is_intact",
    "is_truncated",
    "is_url",
    "learn_letters",
    "list_corpora",
    "missing_downloads",
    "no_progress",
    "open_corpus",
    "open_recorded_corpus",
    "prune",
    "release_pages",
    "split",
    "text_path",
]
