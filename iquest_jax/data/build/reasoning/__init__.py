"""Reasoning that execution proves: questions about programs with the steps of their runs, and puzzles with a judge."""
