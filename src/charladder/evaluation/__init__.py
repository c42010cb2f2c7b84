"""Evaluation: bits per character, every character of a split scored exactly once."""

from charladder.evaluation.bits import Score, Scored, evaluate, windows_to_score

__all__ = ["Score", "Scored", "evaluate", "windows_to_score"]
