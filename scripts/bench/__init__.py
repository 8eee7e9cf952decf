"""Benchmarks: `python -m scripts.bench.NAME` prints one table, and writes it with --json."""
