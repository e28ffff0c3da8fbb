"""Benchmarks of this machine, one file per case; each yields its results as dicts."""
