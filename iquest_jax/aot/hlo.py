"""Reads an optimised HLO module as text: what runs how often, what moves between chips, what lies in memory.

Bytes are those of one chip. Imports no jax.
"""

import collections
import dataclasses
import json
import math
import re
from collections.abc import Iterator

COLLECTIVES = ('all-gather', 'reduce-scatter', 'all-reduce', 'all-to-all', 'collective-permute')
# Instructions whose result is an operand seen otherwise, or that of the computation they call.
_NO_BUFFER = {
    'parameter', 'get-tuple-element', 'tuple', 'bitcast', 'while', 'conditional', 'call', 'optimization-barrier',
    'dynamic-update-slice', 'copy-done', 'async-start', 'async-update', 'async-done', 'constant',
    'collective-permute-done', 'all-gather-done', 'all-reduce-done',
}  # fmt: skip
# Instructions that run a computation as it stands; a reduction's is folded into the reduction.
_RUNS = ('while', 'fusion', 'call', 'conditional', 'async-start', 'custom-call')
_BITS = {'pred': 8, 'bf16': 16, 'token': 0, 'opaque': 0}
# The compiler's word for "not estimated".
_NO_ESTIMATE = 2**63 - 1

_COMPUTATION = re.compile(r'^(ENTRY )?(%?[\w.<>-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?(%?[\w.<>-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$')
_SHAPE = re.compile(r'\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^}]*)\})?')
_CALLED = re.compile(r'(?:calls|body|to_apply)=(%?[\w.<>-]+)')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line: `rest` is everything behind the opening bracket of its operands."""

  name: str
  shape: str
  opcode: str
  rest: str

  def operands(self) -> list[str]:
    return re.findall(r'%[\w.<>-]+', self.rest.partition(')')[0])

  def source(self) -> str:
    """Where in the program it comes from, as jax names it; '' where the compiler made it."""
    found = re.search(r'op_name="([^"]*)"', self.rest)
    return found[1] if found else ''

  def cycles(self) -> int:
    """The compiler's estimate of one run; 0 where it gives none."""
    found = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
    return int(found[1]) if found and int(found[1]) != _NO_ESTIMATE else 0


@dataclasses.dataclass(frozen=True)
class Collective:
  """One transfer as it is run `times` in a step.

  Attributes:
    shape: of its result.
    size: bytes of the whole array: the result of a gather, the argument of a scatter.
    group: chips that take part together.
    links: of a chip that it keeps busy, as the compiler's chosen algorithm says.
    hidden: whether it runs beside other work.
  """

  kind: str
  shape: str
  size: int
  group: int
  links: int
  times: int
  hidden: bool
  source: str

  @property
  def moved(self) -> float:
    """Bytes that leave one chip, all runs together."""
    if self.kind == 'collective-permute':
      return self.times * self.size
    passes = 2 if self.kind == 'all-reduce' else 1
    return self.times * passes * self.size * (self.group - 1) / self.group


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A Mosaic call as it is run `times` in a step, with what its author says it costs: operations and HBM bytes."""

  name: str
  flops: int
  bytes: int
  times: int


def size_of(shape: str) -> int:
  """Bytes of an array or tuple type, padded to its tiles, what lies outside HBM left out."""
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
        # Arrays of one dimension are padded in the order of a cache line, which never shows.
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
    """How often a while loop runs: the constant its counter is compared with; loops of lax.scan count from 0 by 1."""
    condition = self.computations[re.search(r'condition=(%?[\w.<>-]+)', loop.rest)[1]]
    inner = [name for line in condition for name in _CALLED.findall(line.rest)]
    lines = condition + [line for name in inner for line in self.computations.get(name, [])]
    bounds = [int(line.rest.partition(')')[0]) for line in lines
              if line.opcode == 'constant' and line.shape.startswith('s32[]')]  # fmt: skip
    return max(bounds, default=1)

  def runs(self) -> Iterator[tuple[Instruction, int, str]]:
    """Every instruction with how often a step runs it and its computation; fused ones included."""
    stack = [(self.entry, 1)]
    while stack:
      name, times = stack.pop()
      for line in self.computations.get(name, ()):
        yield line, times, name
        if line.opcode in _RUNS:
          inner = times * self.trips(line) if line.opcode == 'while' else times
          stack += [(called, inner) for called in self._called(line)]

  def _called(self, line: Instruction) -> list[str]:
    """Computations that one run of an instruction runs; of a conditional's branches the one with most work."""
    if branches := re.search(r'branch_computations=\{([^}]*)\}', line.rest):
      return [max(branches[1].split(', '), key=self._work)]
    return _CALLED.findall(line.rest)

  def _work(self, name: str) -> int:
    """Operations of the kernels in a computation, or else its length: enough to tell branches apart."""
    lines = self.computations.get(name, [])
    own = sum(kernel.flops for line in lines for kernel in [_kernel(line, 1)] if kernel)
    return own + len(lines) + sum(self._work(called) for line in lines for called in _CALLED.findall(line.rest))

  def collectives(self) -> list[Collective]:
    """Transfers between chips, groups of one left out."""
    found = []
    for line, times, where in self.runs():
      kind = line.opcode.removesuffix('-start')
      if kind not in COLLECTIVES:
        continue
      shape = line.shape
      if line.opcode.endswith('-start') and shape.startswith('('):
        # (operand, result, ...) of an asynchronous pair.
        shape = max(_SHAPE.finditer(shape), key=lambda part: size_of(part[0]))[0]
      group = group_size(line.rest)
      # libtpu writes a scatter that starts inside a fusion as the reduce it is made of.
      if kind == 'all-reduce' and where.lstrip('%').startswith('all-reduce-scatter'):
        kind = 'reduce-scatter'
      elif kind == 'reduce-scatter':
        shape = ' '.join(_type_of(self.computations[where], name) for name in line.operands()) or shape
      if group > 1 or kind == 'collective-permute':
        hidden = line.opcode.endswith('-start') or 'async' in where
        found.append(
            Collective(kind, line.shape, size_of(re.sub(r'S\(\d\)', '', shape)), group, links(kind, line.rest), times,
                       hidden, line.source())
        )  # fmt: skip
    return found

  def kernels(self) -> list[Kernel]:
    """Mosaic calls."""
    return [found for line, times, _ in self.runs() if (found := _kernel(line, times))]

  def cycles(self) -> dict[str, int]:
    """The compiler's cycles of a step: 'matrix' where a product is in the fusion, 'memory' elsewhere."""
    total = collections.Counter()
    for line, times, _ in self.runs():
      inside = [inner.opcode for name in _CALLED.findall(line.rest) for inner in self.computations.get(name, ())]
      product = line.opcode in ('convolution', 'dot') or 'convolution' in inside or 'dot' in inside
      total['matrix' if product else 'memory'] += times * line.cycles()
    return {'matrix': total['matrix'], 'memory': total['memory']}

  def allocations(self) -> list[tuple[int, str, str]]:
    """(bytes, shape, source) of the buffers the module makes or is given, largest first; not all live at once."""
    found = []
    for name, lines in self.computations.items():
      if name.lstrip('%').startswith(('fused_computation', 'region')) and name != self.entry and not self._is_body(name):
        continue
      for line in lines:
        given = name == self.entry and line.opcode == 'parameter'
        if (line.opcode in _NO_BUFFER and not given) or self._in_place(line):
          continue
        shapes = [part[0] for part in _SHAPE.finditer(line.shape)] if line.opcode != 'copy-start' else []
        found += [(size_of(shape), shape, line.source() or line.name) for shape in shapes]
    return sorted(found, reverse=True)

  def _is_body(self, name: str) -> bool:
    return name in self._bodies

  @property
  def _bodies(self) -> set[str]:
    whiles = (line for lines in self.computations.values() for line in lines if line.opcode == 'while')
    return {re.search(r'body=(%?[\w.<>-]+)', line.rest)[1] for line in whiles}

  def _in_place(self, line: Instruction) -> bool:
    """Whether a fusion only writes a slice of its argument, or a call writes into its arguments."""
    if '"output_to_operand_aliasing"' in line.rest or 'output_to_operand_aliasing=' in line.rest:
      return True
    inside = [inner for name in re.findall(r'calls=(%?[\w.<>-]+)', line.rest) for inner in self.computations.get(name, ())]
    return line.opcode == 'fusion' and any(
        inner.opcode == 'dynamic-update-slice' and size_of(inner.shape) >= size_of(line.shape) for inner in inside
    )


def _kernel(line: Instruction, times: int) -> Kernel | None:
  if line.opcode != 'custom-call' or 'tpu_custom_call' not in line.rest:
    return None
  found = re.search(r'"cost_estimate":(\{[^}]*\})', line.rest)
  cost = json.loads(found[1]) if found else {}
  name = line.source().rsplit('/', 1)[-1] or line.name
  return Kernel(name, int(cost.get('flops', 0)), int(cost.get('bytes_accessed', 0)), times)


def _type_of(lines: list[Instruction], name: str) -> str:
  return next((line.shape for line in lines if line.name == name), '')


def group_size(rest: str) -> int:
  """Chips of one replica group in any of the notations: {{0,1},{2,3}}, [2,4]<=[8], mesh['x'=2,'y'=4] {'y'}."""
  if found := re.search(r'replica_groups=\{\{([\d,]*)\}', rest):
    return len(found[1].split(','))
  if found := re.search(r'replica_groups=\[\d+,(\d+)\]', rest):
    return int(found[1])
  if found := re.search(r'replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}', rest):
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
    parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", found[2])
    return math.prod(int(part) if part else sizes[name] for name, part in parts)
  return 1


def links(kind: str, rest: str) -> int:
  """Links of a chip that a collective uses: a colour is a ring, in one direction or both; a permute takes one link."""
  if kind == 'collective-permute':
    return 1
  found = re.search(r'(\w*)Strategy\w*\{colors:(\d+)', rest)
  if not found:
    return 2
  return int(found[2]) * (1 if 'UniDirection' in found[0] else 2)
