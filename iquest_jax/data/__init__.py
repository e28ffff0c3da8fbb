"""From documents to batches: collect, format, tokenise, pack, write rows, mix, load."""
