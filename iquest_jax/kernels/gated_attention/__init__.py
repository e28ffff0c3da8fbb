"""Attention over one stream (dense, first pass) or two mixed by a gate (later passes of the loop)."""

from iquest_jax.kernels.gated_attention.reference import attention, gated_attention

__all__ = ['attention', 'gated_attention']
