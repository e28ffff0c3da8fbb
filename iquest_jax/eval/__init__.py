"""Benchmarks: one small protocol, one file per family, resumable runs, and the comparison of two runs."""
