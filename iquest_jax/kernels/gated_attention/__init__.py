"""Attention over one stream (dense, first pass) or two mixed by a gate (later passes of the loop)."""

from iquest_jax.kernels.gated_attention.reference import Halo, Ids, attention, gated_attention

__all__ = ['Halo', 'Ids', 'attention', 'gated_attention']
