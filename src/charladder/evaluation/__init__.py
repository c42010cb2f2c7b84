"""Evaluation: bits per character, every character of a split scored exactly once."""

from charladder.evaluation.bits import Score, evaluate, windows_to_score

__all__ = ["Score", "evaluate", "windows_to_score"]
