"""A small corpus, deterministic from a seed, for sizes that train on a laptop."""
