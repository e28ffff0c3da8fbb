"""Single instructions of an optimised HLO module: sizes, transfers and kernels, read from their text. Imports no jax.

All byte counts are per chip.
"""

import dataclasses
import json
import math
import re

COLLECTIVES = ('all-gather', 'reduce-scatter', 'all-reduce', 'all-to-all', 'collective-permute')
# Transfers between a chip and the memory of its host.
HOST = ('to host', 'from host')
# Over the network that joins several slices: the hosts send and combine what their chips hand them.
NETWORK = 'between slices'
_BITS = {'pred': 8, 'bf16': 16, 'token': 0, 'opaque': 0}
# How the compiler writes "no estimate".
_NO_ESTIMATE = 2**63 - 1

SHAPE = re.compile(r'\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^}]*)\})?')
# Of a send to the hosts that sum over slices: what its recv is called too, and the slices.
RENDEZVOUS = re.compile(r'_xla_host_transfer_rendezvous="([^"]*)"')
_SLICES = re.compile(r'_xla_megascale_target="\{([\d,:]*)\}x')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of the text; `rest` is everything after the opening bracket of the operands."""

  name: str
  shape: str
  opcode: str
  rest: str

  def operands(self) -> list[str]:
    return re.findall(r'%[\w.<>-]+', self.rest.partition(')')[0])

  def constant(self) -> int | None:
    """The value of a constant int32 scalar; None if it is something else."""
    scalar = self.opcode == 'constant' and self.shape.startswith('s32[]')
    return int(self.rest.partition(')')[0]) if scalar else None

  def source(self) -> str:
    """The operation of the jax program it comes from; '' if the compiler added it."""
    op_name = re.search(r'op_name="([^"]*)"', self.rest)
    return op_name[1].replace("\\'", "'") if op_name else ''

  def cycles(self) -> int:
    """The compiler's estimate for one run; 0 if it gives none."""
    estimate = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
    return int(estimate[1]) if estimate and int(estimate[1]) != _NO_ESTIMATE else 0


@dataclasses.dataclass(frozen=True)
class Transfer:
  """One transfer between chips, between slices, or between a chip and its host.

  Attributes:
    kind: one of COLLECTIVES or HOST, or NETWORK.
    channels: its channel_id, if it has one; several transfers may share channel 1.
    shape: type of the result.
    size: bytes of the whole array: the result of a gather, the argument of a scatter.
    group: chips per replica group; slices of a sum over the network.
    links: links of a chip in use, from the algorithm that the compiler chose.
    times: runs per step.
  """

  kind: str
  channels: tuple[int, ...]
  shape: str
  size: int
  group: int
  links: int
  times: int

  @property
  def moved(self) -> float:
    """Bytes that leave one chip per step, or that it exchanges with its host."""
    if self.kind == 'collective-permute' or self.kind in HOST:
      return self.times * self.size
    passes = 2 if self.kind in ('all-reduce', NETWORK) else 1
    return self.times * passes * self.size * (self.group - 1) / self.group


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A Mosaic call that runs `times` per step, with the FLOPs and HBM bytes per run that its author declares.

  Attributes:
    shape: dimensions of its first result; for attention, those of the queries or of their gradient, [B, H, T, K].
  """

  name: str
  flops: int
  bytes: int
  shape: tuple[int, ...]
  times: int


def size_of(shape: str) -> int:
  """Bytes in HBM of an array or tuple type, padded to its tiles; other memory spaces count as 0."""
  total = 0
  for dtype, dims, layout in SHAPE.findall(shape):
    bits = _BITS.get(dtype) or (0 if dtype in _BITS else int(re.search(r'\d+', dtype)[0]))
    if re.search(r'S\([1-9]', layout):
      continue
    dims = [int(n) for n in dims.split(',') if n]
    order, _, tiling = layout.partition(':')
    tile = re.match(r'T\(([\d,]+)\)', tiling)
    if tile and dims:
      minor = [int(n) for n in order.split(',')]
      for axis, step in zip(minor, reversed([int(n) for n in tile[1].split(',')])):
        # Padding of a one-dimensional array is too small to matter.
        dims[axis] = math.ceil(dims[axis] / step) * step if len(dims) > 1 else dims[axis]
    total += math.prod(dims) * bits // 8
  return total


def anywhere(shape: str) -> str:
  """The type without its memory space."""
  return re.sub(r'S\(\d\)', '', shape)


def kernel_of(line: Instruction, outer: Instruction, times: int) -> Kernel | None:
  """The Mosaic call that an instruction is; `outer` is the fusion that it may be in, which then declares the cost."""
  if line.opcode != 'custom-call' or 'tpu_custom_call' not in line.rest:
    return None
  declared = re.search(r'"cost_estimate":(\{[^}]*\})', line.rest) or re.search(r'"cost_estimate":(\{[^}]*\})', outer.rest)
  cost = json.loads(declared[1]) if declared else {}
  name = re.sub(r'[.\d]+$', '', line.name.lstrip('%'))
  result = SHAPE.search(line.shape)
  shape = tuple(int(n) for n in result[2].split(',') if n) if result else ()
  return Kernel(name, int(cost.get('flops', 0)), int(cost.get('bytes_accessed', 0)), shape, times)


def between_slices(line: Instruction, times: int) -> Transfer | None:
  """The sum over slices for which an instruction hands its host an array."""
  if line.opcode != 'send' or '"ALL_REDUCE"' not in line.rest or not (target := _SLICES.search(line.rest)):
    return None
  sizes = [int(last or first) - int(first) + 1 for first, last in re.findall(r'(\d+)(?::(\d+))?', target[1])]
  return Transfer(NETWORK, (), line.shape, size_of(SHAPE.search(line.shape)[0]), sum(sizes), 1, times)


def group_size(rest: str) -> int:
  """Chips per replica group, in every notation: {{0,1},{2,3}}, [2,4]<=[8], mesh['x'=2,'y'=4] {'y'}; 1 if there is none."""
  if groups := re.search(r'replica_groups=\{\{([\d,]*)\}', rest):
    return len(groups[1].split(','))
  if groups := re.search(r'replica_groups=\[\d+,(\d+)\]', rest):
    return int(groups[1])
  if groups := re.search(r'replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}', rest):
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", groups[1])}
    parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", groups[2])
    return math.prod(int(part) if part else sizes[name] for name, part in parts)
  return 1


def links(kind: str, rest: str) -> int:
  """Links of a chip that a collective uses: one ring per colour, in one direction or both; a permute uses one link."""
  if kind == 'collective-permute':
    return 1
  strategy = re.search(r'(\w*)Strategy\w*\{colors:(\d+)', rest)
  if not strategy:
    return 2
  return int(strategy[2]) * (1 if 'UniDirection' in strategy[0] else 2)
