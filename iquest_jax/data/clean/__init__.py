"""Cleaning: checks of texts, duplicates, contamination; pure functions over documents."""
