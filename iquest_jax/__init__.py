"""Training of IQuest-Coder-V1 style code models, from raw repositories to a reasoning agent, in JAX."""

__version__ = '0.1.0'
