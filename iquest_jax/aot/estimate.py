"""Estimates step time, throughput and utilisation from the measure of a compiled step. Nothing is timed."""

import dataclasses

from ml_collections import ConfigDict

from iquest_jax.aot.hlo import HOST, NETWORK
from iquest_jax.aot.topology import Slice
from iquest_jax.hardware import Chip
from iquest_jax.model import cost, sizes

# Of kernels.gated_attention: a block pair, and the keys that the local stream computes per query.
BLOCK_Q, BLOCK_K, LOCAL_KEYS = 512, 1024, 256
# FLOPs per score and element of a head.
_PER_SCORE = {'forward': 4, 'backward': 10}
# The share of peak that attention kernels are said to reach on v5p, forward and backward, on the blocks they compute.
PUBLISHED_ATTENTION = {'v5p': 0.66}


@dataclasses.dataclass(frozen=True)
class Estimate:
  """One train step of a stage on a slice.

  The step is the sum of its parts: matrix units and memory from the compiler's cycle counts; kernels; and transfers over
  links, to the host and, of several slices, over the network between them, as far as they take longer than the work that
  hides them, each compared with its own.

  Attributes:
    fits: whether the compiler accepted the program and its peak is within the HBM of a chip.
    peak_bytes: peak HBM per chip, or what a refused program asks for (None: the compiler does not say).
    useful_flops: per step of the whole slice, without recomputation; each row is one document.
    seconds: per step, by part: matrix, memory, kernels, links, host; of several slices network too.
    hidden: seconds of transfers that other work hides: links, host, network.
    moved: bytes that leave a chip per step, by kind of transfer.
    tokens: per step of the whole slice.
    slice_: the slice.
  """

  fits: bool
  peak_bytes: int | None
  useful_flops: int
  seconds: dict[str, float]
  hidden: dict[str, float]
  moved: dict[str, float]
  tokens: int
  slice_: Slice

  @property
  def step_seconds(self) -> float:
    """Estimated seconds per step."""
    return sum(self.seconds.values())

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


def estimate(
    measure: dict, config: ConfigDict, slice_: Slice, bundles: dict, attention_rate: float | None = None
) -> Estimate:
  """The estimate of `config` on `slice_`.

  Args:
    measure: from aot.program.
    bundles: from aot.bundles, by generation of chips.
    attention_rate: share of peak at which attention runs, instead of the kernels' own bounds.
  """
  model = sizes.ModelConfig(**config.model.to_dict())
  rows, length = config.train.batch_rows, config.data.context
  refused = 'refused' in measure
  peak = measure['needed_bytes'] if refused else measure['peak_bytes']
  seconds, hidden, moved = parts(measure, slice_, bundles, attention_rate)
  return Estimate(
      fits=not refused and peak <= slice_.chip.hbm_bytes,
      peak_bytes=peak,
      useful_flops=cost.TRAIN_PASSES * rows * cost.forward_flops(model, length),
      seconds=seconds,
      hidden=hidden,
      moved=moved,
      tokens=rows * length,
      slice_=slice_,
  )


def parts(
    measure: dict, slice_: Slice, bundles: dict, attention_rate: float | None = None, attended: float = 1.0
) -> tuple[dict, dict, dict]:
  """`seconds`, `hidden` and `moved` of an Estimate, for one run of any compiled program.

  Args:
    attended: share of the block pairs of a row of one document that its rows have.
  """
  chip, counts = slice_.chip, bundles.get(slice_.generation, {})
  kernel_seconds = lambda kernels: sum(
      kernel['times'] * one_kernel(kernel, chip, counts, attention_rate, attended) for kernel in kernels
  )
  cycles = measure.get('cycles', {'matrix': 0, 'memory': 0})
  seconds = {name: count / chip.clock_hz for name, count in cycles.items()}
  over = {'links': 0.0, 'host': 0.0} | ({'network': 0.0} if slice_.slices > 1 else {})
  seconds |= {'kernels': kernel_seconds(measure.get('kernels', ())), **over}
  hidden, moved = dict(over), {}
  for each in measure.get('transfers', ()):
    moved[each['kind']] = moved.get(each['kind'], 0) + each['moved']
    part, rate = _path(each, chip)
    seconds[part] += each['moved'] / rate
  for window in measure.get('windows', ()):
    behind = window['cycles'] / chip.clock_hz + kernel_seconds(window['kernels'])
    open_ = dict.fromkeys(over, 0.0)
    for each in window['transfers']:
      part, rate = _path(each, chip)
      open_[part] += each['moved'] / rate
      moved[each['kind']] = moved.get(each['kind'], 0) + window['times'] * each['moved']
    for part, taken in open_.items():
      seconds[part] += window['times'] * max(0, taken - behind)
      hidden[part] += window['times'] * min(taken, behind)
  return seconds, hidden, moved


def _path(transfer: dict, chip: Chip) -> tuple[str, float]:
  """(the part of a step that a transfer belongs to, bytes/s of a chip there)."""
  if transfer['kind'] == NETWORK:
    return 'network', chip.network_bandwidth
  if transfer['kind'] in HOST:
    return 'host', chip.host_bandwidth
  return 'links', transfer['links'] * chip.link_bandwidth


def one_kernel(
    kernel: dict, chip: Chip, counts: dict, attention_rate: float | None = None, attended: float = 1.0
) -> float:
  """The least seconds of one run of a kernel: the largest of its bounds.

  The bounds are the bytes it declares over the bandwidth, the FLOPs over the rate of the matrix units, and, for attention
  kernels, the bundles that are scheduled for their block pairs: one cycle each at best, on each core. Matrix units whose
  side is longer than a head are filled in part, because every product of attention contracts or yields a head.

  Args:
    kernel: name, flops, bytes and shape of its first result, as in hlo.Kernel.
    counts: aot.bundles of this chip; {} if they are not known.
    attention_rate: share of peak, instead of bundles and matrix units, for attention kernels.
    attended: share of the block pairs behind the FLOPs that attention kernels visit.
  """
  memory = kernel['bytes'] / chip.hbm_bandwidth
  stream, _, direction = kernel['name'].rpartition('attention_')
  if direction not in _PER_SCORE:
    return max(memory, kernel['flops'] / chip.peak_flops)
  B, H, T, K = kernel['shape']
  per_score = _PER_SCORE[direction] * K
  local = B * H * T * LOCAL_KEYS if stream else 0
  flops = per_score * local + attended * (kernel['flops'] - per_score * local)
  if attention_rate:
    return max(memory, flops / (attention_rate * chip.peak_flops))
  rate = chip.peak_flops * min(1, K / chip.matrix_width)
  if direction not in counts:
    return max(memory, flops / rate)
  pairs = (flops / per_score - local) / (BLOCK_Q * BLOCK_K)
  (visible, masked), around = counts[direction], counts[f'{direction}_step']
  of_bundles = lambda count: count / (chip.cores * chip.clock_hz)
  pair = max(of_bundles(visible + around['step']), BLOCK_Q * BLOCK_K * per_score / rate)
  # In a row that is one document, one pair of every query block is masked.
  once = of_bundles(masked - visible + (around['local'] if stream else 0))
  return max(memory, pairs * pair + B * H * T / BLOCK_Q * max(0, once))
