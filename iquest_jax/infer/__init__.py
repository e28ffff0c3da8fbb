"""Decoding from a checkpoint."""
