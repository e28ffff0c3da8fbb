"""From the measure of a compiled step to seconds, tokens and utilisation. Arithmetic only, nothing here was timed."""

import dataclasses

from ml_collections import ConfigDict

from iquest_jax.aot.topology import Slice
from iquest_jax.model import cost, sizes


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A step of a stage on a slice, by arithmetic.

  The four parts add up to the step: matrix units and memory from the compiler's cycle counts, kernels at the slower of
  matrix rate and memory bandwidth by their declared costs, links for transfers that no work hides. Hidden transfers
  count only where they take longer than the work beside them.

  Attributes:
    fits: whether the compiler took the program.
    peak_bytes: HBM of one chip at its fullest, or what the refused program asks for (None: the compiler does not say).
    useful_flops: of a step of the whole slice, without recomputation; rows taken as one document each.
    seconds: by part; `links_hidden` is beside, not in the sum.
    moved: bytes that leave a chip in a step, by kind of collective.
  """

  fits: bool
  peak_bytes: int | None
  hbm_bytes: int
  useful_flops: int
  seconds: dict[str, float]
  moved: dict[str, float]
  tokens: int
  chips: int
  peak_flops: float

  @property
  def step_seconds(self) -> float:
    parts = {name: spent for name, spent in self.seconds.items() if name != 'links_hidden'}
    work = sum(spent for name, spent in parts.items() if name != 'links')
    return sum(parts.values()) + max(0.0, self.seconds['links_hidden'] - work)

  @property
  def dominant(self) -> str:
    return max(self.seconds, key=self.seconds.get)

  @property
  def tokens_per_chip_second(self) -> float:
    return self.tokens / self.step_seconds / self.chips

  @property
  def mfu(self) -> float:
    return self.useful_flops / (self.step_seconds * self.chips * self.peak_flops)


def held(config: ConfigDict) -> dict[str, int]:
  """Bytes a chip keeps of one micro-batch from the forward pass to the backward, by name; arithmetic.

  Empty for remat policies that keep more than names. A looped model keeps the first pass's keys and values for the later
  ones, and in the backward pass their gradients, which grow until the first pass is reached.
  """
  model, train = sizes.ModelConfig(**config.model.to_dict()), config.train
  if train.remat not in ('full', 'attention', 'offload'):
    return {}
  split = config.mesh.data * config.mesh.fsdp * train.accumulation * config.mesh.context
  layer_tokens = train.batch_rows * config.data.context // split * model.layers
  item = 2 if train.dtype == 'bfloat16' else 4
  heads, kv_heads = model.heads // config.mesh.tensor, model.kv_heads // config.mesh.tensor
  kept = {'layer inputs' + (' (host)' if train.remat == 'offload' else ''): model.loops * model.d_model}
  if train.remat != 'full':
    kept['attention outputs'] = model.loops * heads * model.head_dim
  if model.loops > 1:
    kept |= dict.fromkeys(('K1, V1', 'dK1, dV1'), 2 * kv_heads * model.head_dim)
  return {name: layer_tokens * width * item for name, width in kept.items()}


def estimate(measure: dict, config: ConfigDict, slice_: Slice) -> Estimate:
  """Reads a measure (aot.program) of `config` on `slice_`."""
  chip, model = slice_.chip, sizes.ModelConfig(**config.model.to_dict())
  rows, length = config.train.batch_rows, config.data.context
  refused = 'refused' in measure
  cycles = measure.get('cycles', {'matrix': 0, 'memory': 0})
  seconds = {name: count / chip.clock_hz for name, count in cycles.items()}
  seconds['kernels'] = sum(
      kernel['times'] * max(kernel['flops'] / chip.peak_flops, kernel['bytes'] / chip.hbm_bandwidth)
      for kernel in measure.get('kernels', ())
  )
  seconds |= {'links': 0.0, 'links_hidden': 0.0}
  moved = {}
  for found in measure.get('collectives', ()):
    moved[found['kind']] = moved.get(found['kind'], 0) + found['moved']
    seconds['links_hidden' if found['hidden'] else 'links'] += found['moved'] / (found['links'] * chip.link_bandwidth)
  peak = measure['needed_bytes'] if refused else measure['peak_bytes']
  return Estimate(
      fits=not refused and peak <= chip.hbm_bytes,
      peak_bytes=peak,
      hbm_bytes=chip.hbm_bytes,
      useful_flops=cost.TRAIN_PASSES * rows * cost.forward_flops(model, length),
      seconds=seconds,
      moved=moved,
      tokens=rows * length,
      chips=slice_.chips,
      peak_flops=chip.peak_flops,
  )
