"""Evaluation: bits per character, every character of a split scored exactly once."""

from charladder.evaluation.sliding_window import Score, Scored, evaluate, windows_to_score

__all__ = ["Score", "Scored", "evaluate", "windows_to_score"]
