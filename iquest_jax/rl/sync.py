"""The training parameters where the sampler wants them, checked to be the same values."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from iquest_jax import sharding
from iquest_jax.checkpoint import fingerprint
from iquest_jax.errors import RunStopped
from iquest_jax.model.sizes import ModelConfig
from iquest_jax.model.transformer import Transformer, init_params


class Sync:
  """Copies parameters to a mesh for decoding, one per process, on which the process decodes by itself.

  Weights are split over the tensor axis within a process, as far as there are key/value heads, and replicated over
  processes. On one device they are the training parameters themselves: nothing is copied.
  """

  def __init__(self, model: ModelConfig, dtype):
    """Copies nothing yet.

    Args:
      dtype: compute dtype of the sampler; in it are the weights that are multiplied.
    """
    self._boxed = jax.eval_shape(lambda key: init_params(Transformer(model), key), jax.random.key(0))
    self._dtype = jnp.dtype(dtype)
    tensor = math.gcd(jax.local_device_count(), model.kv_heads)
    shape = {'data': -1, 'fsdp': 1, 'context': 1, 'tensor': tensor}
    self._shardings = sharding.shardings(self._boxed, sharding.make_mesh_by_process(shape))
    self._mesh = sharding.make_mesh(shape, jax.local_devices())

  def __call__(self, params: Any) -> tuple[Any, str]:
    """(parameters on this process's mesh, their fingerprint). They may be the same buffers as `params`.

    Args:
      params: float32 tree of the Transformer on the training mesh.

    Raises:
      RunStopped: the copy differs from the parameters.
    """
    params = _cast(params, self._boxed, self._dtype)
    expected = fingerprint.fingerprints(params)
    copy = self._local(jax.device_put(params, self._shardings))
    with jax.set_mesh(self._mesh):
      actual = fingerprint.fingerprints(copy)
    if wrong := [name for name in expected if actual[name] != expected[name]]:
      raise RunStopped(f'rl: sampler and trainer differ in {wrong[0]} on process {jax.process_index()}; check its devices')
    return copy, fingerprint.combine(actual)

  def _local(self, params: Any) -> Any:
    """The part of global arrays that is on this process's devices, as arrays of its own: it is whole."""

    def one(leaf: jax.Array, where: NamedSharding) -> jax.Array:
      parts, local = {shard.device: shard.data for shard in leaf.addressable_shards}, NamedSharding(self._mesh, where.spec)
      ordered = [parts[device] for device in local.devices_indices_map(leaf.shape)]
      return jax.make_array_from_single_device_arrays(leaf.shape, local, ordered)

    return jax.tree.map(one, params, self._shardings)


def _cast(params: Any, boxed: Any, dtype) -> Any:
  """Weights that are multiplied in the compute dtype, on the mesh where they are."""
  if dtype == jnp.float32:
    return params
  return jax.tree.map(lambda leaf, box: leaf.astype(dtype) if 'embed' in box.names else leaf, params, boxed)
