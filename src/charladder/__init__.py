"""Character-level language models with deep self-attention, trained with auxiliary losses."""

__version__ = "0.2.0.dev0"
