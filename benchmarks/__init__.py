"""Benchmarks: one question per file; each prints a table or JSON. `python -m benchmarks NAME [--quick] [--json]`."""
