"""One folder a kernel: reference.py is plain JAX and the meaning."""
