"""Attention of new tokens over a cache and over themselves; runs as the reference everywhere."""

from iquest_jax.kernels.decode_attention.reference import attention, gated_attention

__all__ = ['attention', 'gated_attention']
