"""Checkpoints of a chain: where a stage starts, what is stored and sealed, and where it came from."""
