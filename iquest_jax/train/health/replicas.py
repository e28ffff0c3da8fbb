"""Replicas held against each other: an integer hash of every device's own part of every leaf.

Devices that hold the same part of a leaf must hold the same bits. An error that stays on one device (a flipped bit, a
product taken wrongly by the optimizer) makes them differ, and no average over replicas ever removes it. A wrong gradient is
seen in the state that an update makes of it; if it changes the norm by which gradients are clipped, all devices that share
the norm, those of one replica, are suspect.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from iquest_jax import sharding
from iquest_jax.checkpoint import fingerprint


@dataclasses.dataclass(frozen=True)
class Difference:
  """What differs although it should be equal, and where.

  Attributes:
    what: 'params/layers/mlp/up' or another name of what was compared.
    suspects: the devices that a majority contradicts or, without a majority, all of them.
    outvoted: whether there is a majority.
  """

  what: str
  suspects: tuple[jax.Device, ...]
  outvoted: bool


def hashes(mesh: Mesh, specs: Sequence[PartitionSpec]) -> Callable[[Sequence[jax.Array]], jax.Array]:
  """A function from leaves, split by `specs`, to uint32 [data, fsdp, context, tensor, leaves], the same on every device.

  Every leaf is read once, where it lies, and four bytes per leaf and device travel. A single element that differs always
  changes the hash of its part; several do with probability 1 - 2^-32. Nothing is added in floating point.
  """

  def local(leaves):
    return everywhere(jnp.stack([fingerprint.device_sum(leaf) for leaf in leaves]), mesh)

  shape = (list(specs),)
  return jax.shard_map(local, mesh=mesh.abstract_mesh, in_specs=shape, out_specs=PartitionSpec(), check_vma=False)


def everywhere(value: jax.Array, mesh: Mesh) -> jax.Array:
  """[data, fsdp, context, tensor, ...]: what each device holds, on all of them; called inside a shard_map over the mesh."""
  gathered = jax.lax.all_gather(value, mesh.axis_names)
  return gathered.reshape(*mesh.shape.values(), *value.shape)


class Replicas:
  """Compares the leaves of a tree that more than one device holds."""

  def __init__(self, mesh: Mesh, abstract: Any):
    """Args:
      abstract: tree of arrays or jax.ShapeDtypeStruct with NamedShardings on the mesh.
    """
    self._mesh = mesh
    leaves, _ = jax.tree_util.tree_flatten_with_path(abstract)
    self._chosen = [index for index, (_, leaf) in enumerate(leaves) if _replicating(leaf, mesh)]
    self.names = [fingerprint.leaf_path(leaves[index][0]) for index in self._chosen]
    self._split = [_splitting(leaves[index][1]) for index in self._chosen]
    self.hashes = jax.jit(hashes(mesh, [leaves[index][1].sharding.spec for index in self._chosen]))

  def chosen(self, tree: Any) -> list[Any]:
    """The leaves that are compared; what `hashes` takes."""
    leaves = jax.tree.leaves(tree)
    return [leaves[index] for index in self._chosen]

  def differences(self, tree: Any) -> list[Difference]:
    """Leaves whose replicas differ; waits for the tree. All processes must ask, and get the same answer."""
    if not self._chosen:
      return []
    table = np.asarray(self.hashes(self.chosen(tree)))
    found = []
    for index, (name, split) in enumerate(zip(self.names, self._split, strict=True)):
      found += _differences(name, table[..., index], split, self._mesh)
    return found


def _splitting(leaf: Any) -> set[str]:
  """The mesh axes that split a leaf."""
  return {axis for entry in leaf.sharding.spec if entry for axis in ((entry,) if isinstance(entry, str) else entry)}


def _replicating(leaf: Any, mesh: Mesh) -> bool:
  return any(ways > 1 for axis, ways in mesh.shape.items() if axis not in _splitting(leaf))


def _differences(name: str, table: np.ndarray, split: set[str], mesh: Mesh) -> list[Difference]:
  """One Difference per part of a leaf whose hashes [data, fsdp, context, tensor] are not the same on all its devices."""
  order = [axis for axis in sharding.AXES if axis in split] + [axis for axis in sharding.AXES if axis not in split]
  parts = int(np.prod([mesh.shape[axis] for axis in order[: len(split)]]))
  together = lambda grid: np.transpose(grid, [sharding.AXES.index(axis) for axis in order]).reshape(parts, -1)
  found = []
  for values, devices in zip(together(table), together(mesh.devices)):
    odd, outvoted = minority(values)
    if odd.any():
      found.append(Difference(name, tuple(devices[odd]), outvoted))
  return found


def minority(values: np.ndarray) -> tuple[np.ndarray, bool]:
  """(mask of the values [N] that differ from the majority, True); without a majority (mask of all, False)."""
  kinds, counts = np.unique(values, return_counts=True)
  if len(kinds) == 1:
    return np.zeros(len(values), bool), True
  if 2 * counts.max() <= len(values):
    return np.ones(len(values), bool), False
  return values != kinds[counts.argmax()], True
