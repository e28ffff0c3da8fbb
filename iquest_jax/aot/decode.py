"""Decoding compiled for a slice that is not attached: slots that fit, seconds and bytes per token.

The programs are those of infer/engine.py on the mesh of checkpoint/restore.py: parameters in bfloat16, split by key/value
heads over the tensor axis, and slots over the data axis, so that every group of chips with all heads has slots of its own.
"""

import dataclasses
import math

from ml_collections import ConfigDict

from iquest_jax.aot import estimate
from iquest_jax.aot.topology import Slice
from iquest_jax.errors import UserError
from iquest_jax.model import cost, sizes

_ITEM = 2  # bytes of a bfloat16
# Kept free for what a prefill needs besides the cache, in units of its row's keys and values: the slot taken out, what is
# new, copies in another order while it is written (libtpu 0.0.42 scatters so), activations. Compiled, 3 were too few.
_PREFILLED_ROWS = 5


@dataclasses.dataclass(frozen=True)
class Plan:
  """How a slice decodes.

  Attributes:
    model: the model.
    slice_: the slice.
    size: tokens of a slot.
    groups: parts of the slice that hold a replica of the parameters each: the data axis.
    tensor: chips of a group.
    slots: slots of a group.
    row: tokens of a prefilled row.
  """

  model: sizes.ModelConfig
  slice_: Slice
  size: int
  groups: int
  tensor: int
  slots: int
  row: int

  @property
  def far_bytes(self) -> int:
    """Bytes per slot of the keys and values of the first pass, over the chips of a group."""
    m = self.model
    return 2 * _ITEM * m.layers * self.size * m.kv_heads * m.head_dim

  @property
  def slot_bytes(self) -> int:
    """Bytes of the cache per slot, over the chips of a group."""
    m = self.model
    ring = 2 * _ITEM * m.layers * m.loop_window * m.kv_heads * m.head_dim
    return self.far_bytes + (m.loops - 1) * ring

  @property
  def token_bytes(self) -> float:
    """Bytes that a group reads per token of full slots: a step reads each weight once per pass and the caches.

    The keys of the first pass are read in every pass; of the embedding a step reads one row per slot.
    """
    m = self.model
    head = m.vocab * m.d_model
    weights = _ITEM * (m.loops * (cost.num_params(m) - 2 * head) + head)
    return weights / self.slots + m.loops * self.far_bytes + (self.slot_bytes - self.far_bytes)


def plan(config: ConfigDict, slice_: Slice, slots: int = 0, row: int = 0) -> Plan:
  """The plan of a stage's model, with slots of the stage's context.

  Args:
    slots: of a group; 0 for as many as are calculated to fit.
    row: tokens of a prefilled row; 0 for a whole slot.

  Raises:
    UserError: not even one slot fits.
  """
  model = sizes.ModelConfig(**config.model.to_dict())
  tensor = math.gcd(slice_.chips, model.kv_heads)
  size = config.data.context
  one = Plan(model, slice_, size, slice_.chips // tensor, tensor, 1, row or size)
  room = tensor * slice_.chip.hbm_bytes - _ITEM * cost.num_params(model) - _PREFILLED_ROWS * one.slot_bytes
  fitting = int(room // one.slot_bytes)
  if not slots and fitting < 1:
    raise UserError(
        f'aot: slots of {one.size} tokens must fit {slice_.cloud_name} beside the parameters, got none; choose a larger '
        'slice or lower --exp.data.context'
    )
  return dataclasses.replace(one, slots=slots or fitting)


def lower(plan: Plan):
  """{'decode': a step of all slots, 'prefill': a row for one slot of every group}, lowered for the slice."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  from flax import linen as nn
  from jax.sharding import NamedSharding

  from iquest_jax import sharding
  from iquest_jax.checkpoint import restore
  from iquest_jax.infer import engine
  from iquest_jax.infer.sampler import GREEDY, batched
  from iquest_jax.kernels.platform import kernels_for
  from iquest_jax.model import cache as caches
  from iquest_jax.model import transformer

  mesh = sharding.make_mesh({'data': plan.groups, 'fsdp': 1, 'context': 1, 'tensor': plan.tensor}, plan.slice_.devices())
  model = transformer.Transformer(plan.model, jnp.bfloat16, keep_keys=True)
  boxed = jax.eval_shape(lambda key: transformer.init_params(model, key), jax.random.key(0))
  multiplied = lambda box: jax.ShapeDtypeStruct(box.value.shape, jnp.bfloat16 if 'embed' in box.names else jnp.float32)
  boxed = jax.tree.map(
      lambda box: box.replace_boxed(multiplied(box)), boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
  )
  params = restore.with_shardings(boxed, mesh)
  slots = plan.groups * plan.slots

  def placed(x):
    names = caches.KEY_AXES if x.ndim == len(caches.KEY_AXES) else ('batch',)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, sharding.spec(*names)))

  cache = jax.tree.map(placed, jax.eval_shape(lambda: caches.empty(plan.model, slots, plan.size, model.dtype)))
  drawn = lambda count: (batched([GREEDY] * count), np.zeros(count, np.int32), np.zeros(count, np.int32))
  row = np.zeros((plan.groups, plan.row), np.int32)
  each = np.zeros(plan.groups, np.int32)
  # With the mesh itself, constants of the trace would be placed on chips that do not exist.
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), kernels_for('tpu'):
    return {
        'decode': engine._decode.lower(
            model, params, cache, np.zeros(slots, np.int32), np.zeros(slots, np.int32), *drawn(slots)
        ),
        'prefill': engine._prefill.lower(model, True, params, cache, each, row, each, *drawn(plan.groups)),
    }


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Decoding on a slice, with all slots full.

  Attributes:
    fits: whether both programs were accepted and stay within the HBM of a chip.
    peak_bytes: peak HBM per chip of the larger program; None if the compiler does not say.
    more: further slots per group that the rest of the HBM would hold.
    step, prefill: seconds of one step and of a prefill of whole rows, by part (aot.estimate).
    plan: the plan.
  """

  fits: bool
  peak_bytes: int | None
  more: int
  step: dict[str, float]
  prefill: dict[str, float]
  plan: Plan

  @property
  def step_seconds(self) -> float:
    return sum(self.step.values())

  @property
  def tokens_per_second(self) -> float:
    """Of the whole slice."""
    return self.plan.groups * self.plan.slots / self.step_seconds

  @property
  def dominant(self) -> str:
    """The part of a step that takes longest."""
    return max(self.step, key=self.step.get)


def estimated(measures: dict[str, dict], plan: Plan, bundles: dict) -> Estimate:
  """The estimate from the measures of the two programs."""
  chip = plan.slice_.chip
  refused = any('refused' in measure for measure in measures.values())
  peaks = [measure['needed_bytes' if 'refused' in measure else 'peak_bytes'] for measure in measures.values()]
  peak = None if None in peaks else max(peaks)
  left = 0 if peak is None else max(0, chip.hbm_bytes - peak)
  seconds = {name: estimate.parts(measure, plan.slice_, bundles)[0] for name, measure in measures.items()}
  return Estimate(
      fits=not refused and peak <= chip.hbm_bytes,
      peak_bytes=peak,
      more=0 if refused else int(left // (plan.slot_bytes / plan.tensor)),
      step=seconds['decode'],
      prefill=seconds['prefill'],
      plan=plan,
  )
