"""Log-probabilities of targets without holding the logits of a whole row in memory."""

from iquest_jax.kernels.cross_entropy.reference import target_logps

__all__ = ['target_logps']
