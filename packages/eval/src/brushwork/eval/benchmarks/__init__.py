"""Benchmarks: where the prompts of an evaluation come from, one a file."""
