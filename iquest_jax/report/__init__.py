"""One HTML page about a whole chain, made from the files in its folder alone."""
