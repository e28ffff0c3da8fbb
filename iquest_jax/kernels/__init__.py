"""One folder per kernel; its reference.py, in plain JAX, defines what it computes."""
