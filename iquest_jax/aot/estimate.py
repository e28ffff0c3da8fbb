"""Estimates step time, throughput and utilisation from the measure of a compiled step. Nothing is timed."""

import dataclasses

from ml_collections import ConfigDict

from iquest_jax.aot.topology import Slice
from iquest_jax.model import cost, sizes


@dataclasses.dataclass(frozen=True)
class Estimate:
  """One train step of a stage on a slice.

  The step is the sum of four parts: matrix units and memory from the compiler's cycle counts; kernels, whose declared
  costs take the longer of FLOPs over peak rate and bytes over bandwidth; links, for transfers that overlap with nothing.
  Overlapped transfers count only as far as they take longer than the rest of the work.

  Attributes:
    fits: whether the compiler accepted the program and its peak is within the HBM of a chip.
    peak_bytes: peak HBM per chip, or what a refused program asks for (None: the compiler does not say).
    useful_flops: per step of the whole slice, without recomputation; each row is one document.
    seconds: per step, by part: matrix, memory, kernels, links, links_hidden.
    moved: bytes that leave a chip per step, by kind of collective.
    tokens: per step of the whole slice.
    slice_: the slice.
  """

  fits: bool
  peak_bytes: int | None
  useful_flops: int
  seconds: dict[str, float]
  moved: dict[str, float]
  tokens: int
  slice_: Slice

  @property
  def step_seconds(self) -> float:
    """Estimated seconds per step."""
    work = self.seconds['matrix'] + self.seconds['memory'] + self.seconds['kernels']
    return max(work, self.seconds['links_hidden']) + self.seconds['links']

  @property
  def dominant(self) -> str:
    """The part that takes longest."""
    return max(self.seconds, key=self.seconds.get)

  @property
  def tokens_per_chip_second(self) -> float:
    return self.tokens / self.step_seconds / self.slice_.chips

  @property
  def mfu(self) -> float:
    return self.useful_flops / (self.step_seconds * self.slice_.chips * self.slice_.chip.peak_flops)


def kept_for_backward(config: ConfigDict) -> dict[str, int]:
  """Bytes per chip that one micro-batch keeps from the forward to the backward pass, by name of the activation.

  Empty for remat policies that keep more than named activations. A looped model keeps the keys and values of the first
  pass for the later ones; in the backward pass their gradients accumulate until it reaches the first pass.
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
  """The estimate of `config` on `slice_` from its measure (aot.program)."""
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
  for each in measure.get('collectives', ()):
    moved[each['kind']] = moved.get(each['kind'], 0) + each['moved']
    seconds['links_hidden' if each['hidden'] else 'links'] += each['moved'] / (each['links'] * chip.link_bandwidth)
  peak = measure['needed_bytes'] if refused else measure['peak_bytes']
  return Estimate(
      fits=not refused and peak <= chip.hbm_bytes,
      peak_bytes=peak,
      useful_flops=cost.TRAIN_PASSES * rows * cost.forward_flops(model, length),
      seconds=seconds,
      moved=moved,
      tokens=rows * length,
      slice_=slice_,
  )
