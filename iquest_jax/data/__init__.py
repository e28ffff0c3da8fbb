"""From documents to batches: read, build, format, tokenise, pack, write rows, mix, load."""
