"""Samples that a model writes, by domain; none is kept that was not checked by something that could have said no."""
