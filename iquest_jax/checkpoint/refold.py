"""The fold of a parent's parameters once more, in pieces: what a looped stage must have begun with."""

import numpy as np

from iquest_jax.checkpoint import fingerprint, restore
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.model import fold
from iquest_jax.model.sizes import ModelConfig

_ATTENTION = 'layers/attention/'  # where the gates are


def fingerprints(parent: Checkpoints, step: int, model: ModelConfig, rule: str, seed: int) -> dict[str, str]:
  """One fingerprint per leaf that model/fold.py makes of a dense parent, as `fingerprint.fingerprints` names them.

  Reads the parameters of the parent. Memory: the layers that become one, and the pieces of Checkpoints.pieces.

  Args:
    model: the looped model.
    rule, seed: of the fold.

  Raises:
    UserError: the parameters are not as trained.
  """
  group = max(1, restore.trained_as(parent.lineage(step)).layers // model.layers)
  sums, waiting = {}, []
  for path, start, piece in parent.pieces(step):
    folded = [(start, piece)]
    if path.startswith('layers/'):
      waiting.extend(piece)  # layer by layer: a piece may end within a group
      stop, folded = start + len(piece), []
      while len(waiting) >= group:
        layers, waiting = np.stack(waiting[:group]), waiting[group:]
        folded.append(((stop - len(waiting)) // group - 1, fold.FOLDS[rule](layers, 1)))
    for first, leaf in folded:
      corner = [first, *(0 for _ in leaf.shape[1:])][: leaf.ndim]
      sums.setdefault(path, []).append(fingerprint.host_sums(leaf, corner))
  leaves = {path: fingerprint.of_sums(parts) for path, parts in sums.items()}
  gates = fingerprint.fingerprints(fold.gates(model, seed))
  return leaves | {_ATTENTION + name: value for name, value in gates.items()}
