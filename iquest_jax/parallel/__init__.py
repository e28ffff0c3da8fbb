"""Attention over rows that are split across devices."""
