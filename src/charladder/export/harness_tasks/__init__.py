"""Tasks for lm-evaluation-harness: bits per byte and per Unicode character of text8, enwik8 and any text."""
