"""How arrays are split over devices: four mesh axes, one table from logical to mesh axes, and their checks.

Model code names logical axes; the mesh is the ambient one (`jax.set_mesh`), so no module holds a mesh.

  data     replicates parameters; each replica has its own rows. Of several slices, it alone leads from one to another
  fsdp     splits rows and parameters; weights are gathered for use (ZeRO-3)
  context  splits the positions of a row, and parameters like fsdp
  tensor   splits heads, ffn and vocabulary
"""

import math
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from iquest_jax.batch import Batch
from iquest_jax.errors import UserError, check_name

CONTEXT = 'context'
AXES = ('data', 'fsdp', CONTEXT, 'tensor')

RULES = {
    # activations
    'batch': ('data', 'fsdp'),
    'sequence': ('context',),
    'activation': (),
    # parameters
    'layers': (),
    'vocab': ('tensor',),
    'embed': ('fsdp', 'context'),
    'ffn': ('tensor',),
    'heads': ('tensor',),
    'kv_heads': ('tensor',),
    'head_dim': (),
    'norm': (),
    'gate': (),
}

# A gather over more devices than MOST_WAYS_A_LEG takes two legs, the first among LEG neighbours: a row of a 16 x 16 torus.
MOST_WAYS_A_LEG = 64
LEG = 16


def make_mesh(shape: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A mesh of the four axes; one size may be -1, for all devices that the other axes leave.

  On several slices of TPUs, the data axis is split over them first: consecutive replicas share a slice, and only sums of
  gradients travel over the network between slices.

  Raises:
    UserError: the product of the sizes differs from the number of devices, or slices are unequal or do not divide data.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [shape[axis] for axis in AXES]
  if sizes.count(-1) == 1:
    sizes[sizes.index(-1)] = max(1, len(devices) // -int(np.prod(sizes)))
  if min(sizes) < 1 or np.prod(sizes) != len(devices):
    wanted = ' x '.join(f'{axis} {size}' for axis, size in zip(AXES, sizes))
    raise UserError(
        f'mesh: the axes must multiply to {len(devices)} devices ({devices[0].device_kind}), got {wanted} = '
        f'{np.prod(sizes)}; set --exp.mesh.data, .fsdp, .context, .tensor to fit the slice'
    )
  # Axes of the torus may be split, which jax.make_mesh refuses: a 16 x 16 mesh does not fit a slice of 8 x 8 x 4 otherwise.
  if (slices := _slices(devices)) == 1:
    return _mesh(mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True))
  data, *others = sizes
  if data % slices:
    raise UserError(
        f'mesh: data must be a multiple of the {slices} slices, since no other axis leads over the network between them, '
        f'got data {data}; set --exp.mesh.data={slices} and divide the {len(devices) // slices} chips of a slice'
    )
  within, across = (data // slices, *others), (slices, *(1 for _ in others))
  return _mesh(mesh_utils.create_hybrid_device_mesh(within, across, devices, allow_split_physical_axes=True))


def make_mesh_by_process(shape: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
  """The meshes that processes make of their own devices, one after the other along the data axis.

  So what the other axes split lies whole on every process. `make_mesh` follows the torus instead: on a v5p-512 it puts the
  four chips of a tensor axis on four hosts.

  Args:
    shape: of the mesh of one process.
  """
  devices, of_process = jax.devices() if devices is None else devices, {}
  for device in devices:
    of_process.setdefault(device.process_index, []).append(device)
  return _mesh(np.concatenate([make_mesh(shape, of_process[process]).devices for process in sorted(of_process)]))


def _mesh(grid: np.ndarray) -> Mesh:
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _slices(devices: Sequence[jax.Device]) -> int:
  """How many slices of TPUs the devices belong to; other devices count as one. Raises UserError if they are unequal."""
  # jax calls every host of GPUs a slice, where the axes may lead from one host to another.
  indices = [getattr(device, 'slice_index', 0) for device in devices if device.platform == 'tpu']
  chips = sorted({indices.count(index) for index in indices})
  if len(chips) > 1:
    raise UserError(f'mesh: all slices must have equally many chips, got {" and ".join(map(str, chips))}; use equal slices')
  return len(set(indices)) or 1


def spec(*names: str | None) -> PartitionSpec:
  """PartitionSpec of logical names; None is unsharded.

  Raises:
    UserError: a name is not in the table, or a mesh axis would be used twice.
  """
  entries, used = [], {}
  for name in names:
    if name is not None:
      check_name('sharding: logical axis', name, RULES)
    axes = RULES[name] if name else ()
    for axis in axes:
      if axis in used:
        raise UserError(f'sharding: {names} uses mesh axis "{axis}" for both "{used[axis]}" and "{name}"')
      used[axis] = name
    entries.append(axes[0] if len(axes) == 1 else (axes or None))
  return PartitionSpec(*entries)


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
  """Fixes the sharding of an activation by logical names under the ambient mesh; without a mesh, the identity."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, spec(*names))


def ways(name: str, mesh: Mesh) -> int:
  """Into how many parts a mesh splits a logical axis."""
  return math.prod(mesh.shape[axis] for axis in RULES[name])


def with_gathered_weight(
    function: Callable, weight: jax.Array, names: Sequence[str | None], dtype, *activations: jax.Array
):
  """function(weight, *activations) on each device's own rows and positions, with the weight gathered along 'embed'.

  This is explicit because at full size the partitioner moves whole weights and whole gradients by all-reduce. Here the
  weight is cast before it is gathered, so that half the bytes move. It is gathered leg by leg, because libtpu lowers a
  scatter over a whole torus to an all-reduce. The transpose returns the gradient by reduce-scatter in the compute dtype and
  then sums it over data in float32. The partitioner still handles `tensor`.

  Args:
    function: takes the weight and the activations.
    weight: float32, sharded by its logical `names`, one of which is 'embed'.
    dtype: compute dtype, in which `function` gets the weight.
    activations: [B, T, ...] each, like what `function` returns (one array or a tuple).
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return function(weight.astype(dtype), *activations)
  dim = names.index('embed')
  split = spec(*('embed' if name == 'embed' else None for name in names))
  legs = [leg for axis in reversed(RULES['embed']) for leg in _legs(axis, mesh.shape[axis])]

  def local(weight, *activations):
    weight = weight.astype(dtype)
    for axis, groups in legs:
      if dim == 0:
        weight = jax.lax.all_gather(weight, axis, axis_index_groups=groups, tiled=True)
      else:
        # Gathered along a new first axis, then merged: along the last axis a shard ends inside a tile, and libtpu would
        # scatter the gradient by all-reduce and slice.
        weight = jax.lax.all_gather(jnp.moveaxis(weight, dim, 0), axis, axis_index_groups=groups)
        weight = jnp.moveaxis(weight.reshape(-1, *weight.shape[2:]), 0, dim)
    return function(weight, *activations)

  rows = spec('batch', 'sequence')
  manual = {axis for name in ('batch', 'sequence', 'embed') for axis in RULES[name]}
  return jax.shard_map(
      local, in_specs=(split, *[rows] * len(activations)), out_specs=rows, axis_names=manual, check_vma=False
  )(weight, *activations)


def _legs(axis: str, ways: int) -> list[tuple[str, list[list[int]] | None]]:
  """The consecutive all-gathers that join `ways` shards: [(mesh axis, groups of its indices)]."""
  if ways == 1:
    return []
  if ways <= MOST_WAYS_A_LEG:
    return [(axis, None)]
  # Neighbours first: they hold consecutive shards, so the parts end up in order.
  index = np.arange(ways).reshape(-1, math.gcd(ways, LEG))
  return [(axis, index.tolist()), (axis, index.T.tolist())]


def shardings(boxed, mesh: Mesh):
  """NamedShardings for a tree of leaves from `nn.with_logical_partitioning`; other leaves (step counters) are replicated.

  Raises:
    UserError: a dimension does not divide over its mesh axes.
  """

  def one(path, leaf):
    names = leaf.names if isinstance(leaf, nn.LogicallyPartitioned) else ()
    shape = leaf.value.shape if names else ()
    partition = spec(*names)
    for size, name, entry in zip(shape, names, partition):
      ways = int(np.prod([mesh.shape[axis] for axis in ((entry,) if isinstance(entry, str) else entry or ())]))
      if size % ways:
        raise UserError(
            f'sharding: {name} of {jax.tree_util.keystr(path)} must be a multiple of mesh axes {entry} = {ways}, got {size}'
        )
    return NamedSharding(mesh, partition)

  return jax.tree_util.tree_map_with_path(one, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


def of_leaves(abstract):
  """The sharding of each leaf of a tree of arrays or jax.ShapeDtypeStruct."""
  return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def batch_shardings(mesh: Mesh) -> Batch:
  """NamedShardings of a Batch: rows over data and fsdp, positions over context."""
  rows = NamedSharding(mesh, spec('batch', 'sequence'))
  return Batch(
      tokens=rows, targets=rows, loss_weights=rows, segment_ids=rows, positions=rows,
      source_ids=NamedSharding(mesh, spec('batch')),
  )  # fmt: skip
