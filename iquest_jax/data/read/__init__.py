"""Readers: git histories and JSONL files to documents."""
