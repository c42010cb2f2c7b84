"""Scores of texts, line by line: how surprising a network finds each line, character or file."""

from charladder.scoring.lines import Block, TextLine, is_parquet, read_blocks
from charladder.scoring.rows import Row, RowMaker
from charladder.scoring.scored_line import LineConsumer, ScoredLine
from charladder.scoring.single_lines import LineScorer
from charladder.scoring.whole_files import score_files

__all__ = [
    "Block",
    "LineConsumer",
    "LineScorer",
    "Row",
    "RowMaker",
    "ScoredLine",
    "TextLine",
    "is_parquet",
    "read_blocks",
    "score_files",
]
