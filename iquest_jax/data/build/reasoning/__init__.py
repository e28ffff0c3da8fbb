"""Reasoning that execution proves: programs with the steps of their runs, and puzzles; every answer was held against a run."""
