"""Formats: a document, or what a builder made of it, to the segments a model sees."""
