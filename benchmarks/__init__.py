"""Benchmarks: ``python -m benchmarks.NAME`` writes JSON and a plot to ``results`` and a table to ``README.md``."""
