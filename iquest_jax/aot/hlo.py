"""Parses the text of an optimised HLO module: how often each instruction runs, transfers between chips, buffers in HBM.

All byte counts are per chip. Imports no jax.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator

COLLECTIVES = ('all-gather', 'reduce-scatter', 'all-reduce', 'all-to-all', 'collective-permute')
# Instructions without a buffer of their own: the result is a view of an operand, or belongs to another instruction.
_NO_BUFFER = {
    'parameter', 'get-tuple-element', 'tuple', 'bitcast', 'while', 'conditional', 'call', 'optimization-barrier',
    'dynamic-update-slice', 'copy-done', 'async-start', 'async-update', 'async-done', 'constant',
    'collective-permute-done', 'all-gather-done', 'all-reduce-done',
}  # fmt: skip
# Instructions that run the computation they name. A reduction's computation is part of the reduction itself.
_RUNS = ('while', 'fusion', 'call', 'conditional', 'async-start', 'custom-call')
_BITS = {'pred': 8, 'bf16': 16, 'token': 0, 'opaque': 0}
# How the compiler writes "no estimate".
_NO_ESTIMATE = 2**63 - 1

_COMPUTATION = re.compile(r'^(ENTRY )?(%?[\w.<>-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?(%?[\w.<>-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$')
_SHAPE = re.compile(r'\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^}]*)\})?')
_CALLED = re.compile(r'(?:calls|body|to_apply)=(%?[\w.<>-]+)')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of the text; `rest` is everything after the opening bracket of the operands."""

  name: str
  shape: str
  opcode: str
  rest: str

  def operands(self) -> list[str]:
    return re.findall(r'%[\w.<>-]+', self.rest.partition(')')[0])

  def source(self) -> str:
    """The operation of the jax program it comes from; '' if the compiler added it."""
    op_name = re.search(r'op_name="([^"]*)"', self.rest)
    return op_name[1] if op_name else ''

  def cycles(self) -> int:
    """The compiler's estimate for one run; 0 if it gives none."""
    estimate = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
    return int(estimate[1]) if estimate and int(estimate[1]) != _NO_ESTIMATE else 0


@dataclasses.dataclass(frozen=True)
class Collective:
  """One transfer between chips.

  Attributes:
    kind: one of COLLECTIVES.
    channels: its channel_id, if it has one; several transfers may share channel 1.
    shape: type of the result.
    size: bytes of the whole array: the result of a gather, the argument of a scatter.
    group: chips per replica group.
    links: links of a chip in use, from the algorithm that the compiler chose.
    times: runs per step.
    hidden: whether it overlaps with other work.
  """

  kind: str
  channels: tuple[int, ...]
  shape: str
  size: int
  group: int
  links: int
  times: int
  hidden: bool

  @property
  def moved(self) -> float:
    """Bytes that leave one chip per step."""
    if self.kind == 'collective-permute':
      return self.times * self.size
    passes = 2 if self.kind == 'all-reduce' else 1
    return self.times * passes * self.size * (self.group - 1) / self.group


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A Mosaic call that runs `times` per step, with the FLOPs and HBM bytes per run that its author declares."""

  name: str
  flops: int
  bytes: int
  times: int


def size_of(shape: str) -> int:
  """Bytes in HBM of an array or tuple type, padded to its tiles; other memory spaces count as 0."""
  total = 0
  for dtype, dims, layout in _SHAPE.findall(shape):
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


class Module:
  """The parsed text of one module."""

  def __init__(self, text: str):
    self.computations: dict[str, list[Instruction]] = {}
    self.entry, current = '', []
    for line in text.splitlines():
      if begins := _COMPUTATION.match(line):
        current = self.computations.setdefault(begins[2], [])
        self.entry = begins[2] if begins[1] else self.entry
      elif instruction := _INSTRUCTION.match(re.sub(r'/\*.*?\*/', '', line)):
        current.append(Instruction(*instruction.groups()))

  def trips(self, loop: Instruction) -> int:
    """Iterations of a while loop: the constant that its counter is compared with (lax.scan counts from 0 in ones)."""
    condition = self.computations[re.search(r'condition=(%?[\w.<>-]+)', loop.rest)[1]]
    inner = [name for line in condition for name in _CALLED.findall(line.rest)]
    lines = condition + [line for name in inner for line in self.computations.get(name, [])]
    bounds = [int(line.rest.partition(')')[0]) for line in lines
              if line.opcode == 'constant' and line.shape.startswith('s32[]')]  # fmt: skip
    return max(bounds, default=1)

  def runs(self) -> Iterator[tuple[Instruction, int, str]]:
    """Every instruction, inside fusions too, with its runs per step and its computation."""
    stack = [(self.entry, 1)]
    while stack:
      name, times = stack.pop()
      for line in self.computations.get(name, ()):
        yield line, times, name
        if line.opcode in _RUNS:
          inner = times * self.trips(line) if line.opcode == 'while' else times
          stack += [(called, inner) for called in self._called(line)]

  def _called(self, line: Instruction) -> list[str]:
    """Computations that one run of an instruction runs; of a conditional, the branch with the most work."""
    if branches := re.search(r'branch_computations=\{([^}]*)\}', line.rest):
      return [max(branches[1].split(', '), key=self._work)]
    return _CALLED.findall(line.rest)

  def _work(self, name: str) -> int:
    """Kernel FLOPs plus instruction count of a computation, enough to rank branches."""
    lines = self.computations.get(name, [])
    own = sum(kernel.flops for line in lines for kernel in [_kernel(line, 1)] if kernel)
    return own + len(lines) + sum(self._work(called) for line in lines for called in _CALLED.findall(line.rest))

  def collectives(self) -> list[Collective]:
    """Transfers between chips; groups of one chip are left out."""
    transfers = []
    for line, times, where in self.runs():
      kind = line.opcode.removesuffix('-start')
      if kind not in COLLECTIVES:
        continue
      shape = line.shape
      if line.opcode.endswith('-start') and shape.startswith('('):
        # (operand, result, ...) of an asynchronous pair.
        shape = max(_SHAPE.finditer(shape), key=lambda part: size_of(part[0]))[0]
      group = group_size(line.rest)
      # libtpu writes a scatter inside a fusion as the all-reduce that it starts from.
      if kind == 'all-reduce' and where.lstrip('%').startswith('all-reduce-scatter'):
        kind = 'reduce-scatter'
      elif kind == 'reduce-scatter':
        types = {other.name: other.shape for other in self.computations[where]}
        shape = ' '.join(types.get(name, '') for name in line.operands()) or shape
      if group > 1 or kind == 'collective-permute':
        hidden = line.opcode.endswith('-start') or 'async' in where
        channels = tuple(map(int, re.findall(r'channel_id=(\d+)', line.rest)))
        transfers.append(Collective(
            kind, channels, line.shape, size_of(re.sub(r'S\(\d\)', '', shape)), group,
            links(kind, line.rest), times, hidden,
        ))  # fmt: skip
    return transfers

  def kernels(self) -> list[Kernel]:
    """Mosaic calls."""
    return [kernel for line, times, _ in self.runs() if (kernel := _kernel(line, times))]

  def cycles(self) -> dict[str, int]:
    """The compiler's cycles per step: 'matrix' for fusions with a matrix product, 'memory' for everything else."""
    total = {'matrix': 0, 'memory': 0}
    for line, times, _ in self.runs():
      inside = [inner.opcode for name in _CALLED.findall(line.rest) for inner in self.computations.get(name, ())]
      product = line.opcode in ('convolution', 'dot') or 'convolution' in inside or 'dot' in inside
      total['matrix' if product else 'memory'] += times * line.cycles()
    return total

  def allocations(self) -> list[tuple[int, str, str]]:
    """(bytes, shape, source) of every buffer once, arguments too, largest first; not all are live at the same time."""
    loops = (line for lines in self.computations.values() for line in lines if line.opcode == 'while')
    buffers, bodies = [], {re.search(r'body=(%?[\w.<>-]+)', loop.rest)[1] for loop in loops}
    for name, lines in self.computations.items():
      if name.lstrip('%').startswith(('fused_computation', 'region')) and name != self.entry and name not in bodies:
        continue
      for line in lines:
        argument = name == self.entry and line.opcode == 'parameter'
        if (line.opcode in _NO_BUFFER and not argument) or self._in_place(line):
          continue
        shapes = [part[0] for part in _SHAPE.finditer(line.shape)]
        if line.opcode == 'copy-start':  # (result, operand, context)
          shapes = shapes[:1]
        elif line.opcode.endswith('-start'):  # (operands, results, contexts), or only results
          count = len(line.operands())
          shapes = shapes[count : 2 * count] or shapes
        buffers += [(size_of(shape), shape, line.source() or line.name) for shape in shapes]
    return sorted(buffers, reverse=True)

  def _in_place(self, line: Instruction) -> bool:
    """Whether a fusion writes a slice of its argument, or a call writes into its arguments."""
    if '"output_to_operand_aliasing"' in line.rest or 'output_to_operand_aliasing=' in line.rest:
      return True
    inside = [inner for name in re.findall(r'calls=(%?[\w.<>-]+)', line.rest) for inner in self.computations.get(name, ())]
    return line.opcode == 'fusion' and any(
        inner.opcode == 'dynamic-update-slice' and size_of(inner.shape) >= size_of(line.shape) for inner in inside
    )


def _kernel(line: Instruction, times: int) -> Kernel | None:
  if line.opcode != 'custom-call' or 'tpu_custom_call' not in line.rest:
    return None
  declared = re.search(r'"cost_estimate":(\{[^}]*\})', line.rest)
  cost = json.loads(declared[1]) if declared else {}
  name = re.sub(r'[.\d]+$', '', line.name.lstrip('%'))
  return Kernel(name, int(cost.get('flops', 0)), int(cost.get('bytes_accessed', 0)), times)


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
