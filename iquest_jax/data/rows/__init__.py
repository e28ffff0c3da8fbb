"""Packed rows of one context length: packing, mixing, and the dataset on disk with its manifest."""
