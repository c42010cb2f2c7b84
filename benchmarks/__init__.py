"""Benchmarks: one file a question, each prints a table and JSON. `python -m benchmarks NAME [--quick] [--json]`."""
