"""Log-probabilities of targets without ever holding the logits of a whole row."""

from iquest_jax.kernels.cross_entropy.reference import target_logps

__all__ = ['target_logps']
