"""Builders: a document to what a format shows of it."""
