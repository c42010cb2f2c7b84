"""Evaluation: bits per character, every character of a split scored exactly once."""

from charladder.evaluation.sliding_window import Score, ScoredCharacters, evaluate, windows_to_score

__all__ = ["Score", "ScoredCharacters", "evaluate", "windows_to_score"]
