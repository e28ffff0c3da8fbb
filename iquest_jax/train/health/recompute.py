"""A micro-batch computed twice, its rows on other devices the second time: what belongs to one row must be the same bits.

A row's losses and the gradient of its embedded tokens depend on the row and the parameters alone. A row keeps its slot when
it moves by whole devices, so the arithmetic and its order are the same, and results are compared as integers.

It sees errors of a device in the forward pass and in the backward pass of activations, in gathering weights and in the
exchange over the context axis. It cannot see products that yield gradients of weights, sums of these over devices, the
optimizer, and a parameter that is wrong where it is stored, since every row reads the same wrong value. Replicas
(replicas.py) and libtpu's checker (checker.py) see those.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from iquest_jax import sharding
from iquest_jax.batch import Batch, zigzag
from iquest_jax.checkpoint import fingerprint
from iquest_jax.kernels.cross_entropy import target_logps
from iquest_jax.model.transformer import Transformer
from iquest_jax.train.health.replicas import Difference, everywhere, minority
from iquest_jax.train.step import on_mesh

_RESULTS = ('losses', 'gradient of the embedded tokens')


class Recompute:
  """Computes the rows of a micro-batch at one place of the mesh and at another; a place holds whole rows."""

  def __init__(self, config: ConfigDict, model: Transformer, mesh: Mesh):
    self._mesh, self.places = mesh, mesh.shape['data'] * mesh.shape['fsdp']
    rows = config.train.batch_rows // config.train.accumulation
    how = dict(own=rows // self.places, length=config.data.context, chunk=config.train.loss_chunk, seed=config.seed)
    self.hashes = jax.jit(functools.partial(_hashes, model, mesh=mesh, z_loss=config.train.z_loss, **how))

  def differences(self, params: Any, step: int) -> list[Difference]:
    """At most one Difference, of all rows that two places compute differently; waits for the parameters.

    A third place decides between the two. If there are only two, the first is asked again: it contradicts itself after a
    passing error, and a lasting one leaves both suspect. All processes must ask, and get the same answer.
    """
    if self.places == 1:
      return []
    tables = [self._of_rows(params, step, moved) for moved in (0, 1)]
    if np.array_equal(*tables):
      return []
    return [self._difference(np.stack([*tables, self._of_rows(params, step, 2)]))]

  def _of_rows(self, params: Any, step: int, moved: int) -> np.ndarray:
    """uint32 [places, devices of a place, rows of a place, results]: entry p is about the rows whose home is place p."""
    table = np.asarray(self.hashes(params, jnp.int32(step), jnp.int32(moved)))
    return np.roll(table.reshape(self.places, -1, *table.shape[-2:]), -moved, axis=0)

  def _difference(self, tables: np.ndarray) -> Difference:
    suspects, outvoted = set(), True
    for home in range(self.places):
      _, kinds = np.unique(tables[:, home].reshape(len(tables), -1), axis=0, return_inverse=True)
      odd, decided = minority(kinds.ravel())
      suspects |= {int(home + moved) % self.places for moved in np.flatnonzero(odd)}
      outvoted &= decided
    outvoted &= len(suspects) < self.places  # where all are suspect, nobody is left who says which is wrong
    differ = np.any(tables != tables[0], axis=(0, 1, 2, 3))
    what = ', '.join(name for name, differs in zip(_RESULTS, differ, strict=True) if differs)
    devices = self._mesh.devices.reshape(self.places, -1)[sorted(suspects)]
    return Difference(f'recomputed rows ({what})', tuple(devices.ravel()), outvoted)


def _batch(vocab: int, step: jax.Array, moved: jax.Array, rows: int, own: int, length: int, seed: int) -> Batch:
  """Rows of one document each, of random tokens that follow from (seed, step, row), moved by so many places."""
  key = jax.random.fold_in(jax.random.key(seed), step)
  rows_B = (jnp.arange(rows) - moved * own) % rows
  draw = lambda row: jax.random.randint(jax.random.fold_in(key, row), (length + 1,), 0, vocab, jnp.int32)
  drawn_BT, ones_BT = jax.vmap(draw)(rows_B), jnp.ones((rows, length), jnp.int32)
  order = zigzag(length, jax.sharding.get_abstract_mesh().shape[sharding.CONTEXT])
  return on_mesh(
      Batch(
          tokens=drawn_BT[:, order], targets=drawn_BT[:, order + 1], loss_weights=ones_BT.astype(jnp.float32),
          segment_ids=ones_BT, positions=order * ones_BT, source_ids=jnp.zeros(rows, jnp.int32),
      )
  )  # fmt: skip


def _hashes(model, params, step, moved, *, mesh: Mesh, own: int, length: int, chunk: int, z_loss: float, seed: int):
  """uint32 [data, fsdp, context, tensor, own, results], the same everywhere: hashes of what a device has of its rows.

  Args:
    model, params: the model, whose mesh is the ambient one.
    step: varies the rows.
    moved: by how many places they are moved.
    own: rows per place.
  """
  rows = own * mesh.shape['data'] * mesh.shape['fsdp']
  batch = _batch(model.config.vocab, step, moved, rows, own, length, seed)

  def losses(offset_BTD):
    variables = {'params': params, 'perturbations': {'embedded': offset_BTD}}
    hidden_BTD, _ = model.apply(variables, batch.tokens, batch.segment_ids, batch.positions)
    logps_BT, logz_BT = target_logps(hidden_BTD, params['head'], batch.targets, chunk)
    loss_BT = z_loss * jnp.square(logz_BT) - logps_BT
    return jnp.sum(loss_BT), loss_BT

  zeros_BTD = jnp.zeros((rows, length, model.config.d_model), model.dtype)
  zeros_BTD = sharding.constrain(zeros_BTD, 'batch', 'sequence', 'activation')
  gradient_BTD, loss_BT = jax.grad(losses, has_aux=True)(zeros_BTD)

  def local(*results):
    return everywhere(jnp.stack([jax.vmap(fingerprint.device_sum)(result) for result in results], axis=-1), mesh)

  split = sharding.spec('batch', 'sequence')
  on_each = jax.shard_map(local, in_specs=(split, split), out_specs=PartitionSpec(), check_vma=False)
  return on_each(loss_BT, gradient_BTD)
