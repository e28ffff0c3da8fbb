"""Parses the text of an optimised HLO module: how often each instruction runs, transfers, what hides them, buffers in HBM.

Instructions of a computation stand in the order in which they run. All byte counts are per chip. Imports no jax.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator

from iquest_jax.aot.instructions import (
  COLLECTIVES,
  HOST,
  NETWORK,
  RENDEZVOUS,
  SHAPE,
  Instruction,
  Kernel,
  Transfer,
  anywhere,
  between_slices,
  group_size,
  kernel_of,
  links,
  size_of,
)  # fmt: skip

# Instructions without a buffer of their own: the result is a view of an operand, or belongs to another instruction.
_NO_BUFFER = {
    'parameter', 'get-tuple-element', 'tuple', 'bitcast', 'while', 'conditional', 'call', 'optimization-barrier',
    'dynamic-update-slice', 'copy-done', 'async-start', 'async-update', 'async-done', 'constant',
    'collective-permute-done', 'all-gather-done', 'all-reduce-done',
}  # fmt: skip
# Instructions that run the computation they name. A reduction's computation is part of the reduction itself.
_RUNS = ('while', 'fusion', 'call', 'conditional', 'async-start', 'custom-call')
# Of these, instructions that are scheduled as one.
_FUSES = ('fusion', 'async-start', 'custom-call')

_COMPUTATION = re.compile(r'^(ENTRY )?(%?[\w.<>-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?(%?[\w.<>-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$')
_CALLED = re.compile(r'(?:calls|body|to_apply|called_computations)=\{?(%?[\w.<>-]+)')
_SMALL = 2**20  # bytes
# Marks a collective that is spread over several fusions, which start it, carry it on during a product, and end it.
_SPREAD = '"async_collective_fusion_config"'
_HOST_MEMORY = 'S(5)'
_SEMAPHORE = 'u32[]{:S(2)}'


@dataclasses.dataclass(frozen=True)
class Work:
  """What one run of some instructions costs: the compiler's cycles, and kernels, which it does not estimate."""

  cycles: int
  kernels: tuple[Kernel, ...]


@dataclasses.dataclass(frozen=True)
class Window:
  """Transfers that are open at the same time, and the work that runs meanwhile and hides them, all `times` per step.

  The `times` of a transfer in a window are those of the window.
  """

  transfers: tuple[Transfer, ...]
  behind: Work
  times: int


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
    self._by_name = {line.name: line for lines in self.computations.values() for line in lines}

  def trips(self, loop: Instruction) -> int:
    """Iterations of a while loop: from the first value of its counter to the constant that it is compared with, in ones.

    lax.scan counts from 0; where libtpu runs the first iteration ahead of the loop, from 1.
    """
    condition = self.computations[re.search(r'condition=(%?[\w.<>-]+)', loop.rest)[1]]
    inner = [name for line in condition for name in _CALLED.findall(line.rest)]
    lines = condition + [line for name in inner for line in self.computations.get(name, [])]
    bounds = [bound for line in lines if (bound := line.constant()) is not None]
    start = self._by_name.get(loop.operands()[0])
    while start and start.opcode in ('tuple', 'copy', 'bitcast'):
      # The counter is the first element of the state.
      start = self._by_name.get(start.operands()[0])
    return max(1, max(bounds, default=1) - ((start and start.constant()) or 0))

  def runs(self) -> Iterator[tuple[Instruction, int, str]]:
    """Every instruction, inside fusions too, with its runs per step and its computation."""
    for line, times, where in self._scheduled():
      yield line, times, where
      yield from ((inner, times, inside) for inner, inside in self._inside(line))

  def _scheduled(self) -> Iterator[tuple[Instruction, int, str]]:
    """Every instruction outside fusions, computation after computation, each in the order of its schedule."""
    stack = [(self.entry, 1)]
    while stack:
      name, times = stack.pop()
      for line in self.computations.get(name, ()):
        yield line, times, name
        if line.opcode in _RUNS and line.opcode not in _FUSES:
          inner = times * self.trips(line) if line.opcode == 'while' else times
          stack += [(called, inner) for called in self._called(line)]

  def _inside(self, line: Instruction) -> Iterator[tuple[Instruction, str]]:
    """The instructions that a fusion or an asynchronous start consists of, with their computation."""
    if line.opcode in _FUSES:
      for name in self._called(line):
        for inner in self.computations.get(name, ()):
          yield inner, name
          yield from self._inside(inner)

  def _called(self, line: Instruction) -> list[str]:
    """Computations that one run of an instruction runs; of a conditional, the branch with the most work."""
    if branches := re.search(r'branch_computations=\{([^}]*)\}', line.rest):
      return [max(branches[1].split(', '), key=self._rank)]
    return _CALLED.findall(line.rest)

  def _rank(self, name: str) -> int:
    """Kernel FLOPs plus instruction count of a computation, enough to rank branches."""
    lines = self.computations.get(name, [])
    own = sum(kernel.flops for line in lines for kernel in [kernel_of(line, line, 1)] if kernel)
    return own + len(lines) + sum(self._rank(called) for line in lines for called in _CALLED.findall(line.rest))

  def transfers(self) -> tuple[list[Transfer], list[Window]]:
    """(transfers during which nothing else runs, windows of transfers that overlap with work).

    A collective spread over several fusions is one transfer, behind the work of those fusions alone, because they carry it
    on. An asynchronous transfer is behind all work between its start and its end. What carries on a spread collective
    hides no other transfer over links. Groups of one chip are left out.
    """
    alone, windows, schedules = [], [], {}
    for line, times, where in self._scheduled():
      schedules.setdefault((where, times), []).append(line)
    for (where, times), lines in schedules.items():
      spread, spans = _Spread(), []
      for i, line in enumerate(lines):
        found = [(line, where), *self._inside(line)]
        carried, others = [], [copied] if (copied := self._host_copy(line, times)) else []
        for inner, inside in found:
          if each := self._transfer(inner, inside, times):
            (carried if _SPREAD in inner.rest else others).append(each)
        spread.follow(line, carried)
        if each := between_slices(line, times):
          spans.append((i, self._received(lines, i), each))
        if line.opcode.endswith('-start'):
          spans += [(i, self._end(lines, i), each) for each in others]
        else:
          alone += others
      windows += [Window(tuple(ones), self._work(carriers), times) for ones, carriers in spread.groups()]
      carriers = {line.name for _, lines in spread.groups() for line in lines}
      # A sum of a few scalars may be open for a whole step, and must not seem to hold the others open for as long.
      small = [span for span in spans if span[2].kind == NETWORK and span[2].size < _SMALL]
      of_kinds = lambda kinds: [span for span in spans if span[2].kind in kinds and span not in small]
      for some in (of_kinds(COLLECTIVES), of_kinds(HOST[:1]), of_kinds(HOST[1:]), of_kinds((NETWORK,)), small):
        for start, stop, ones in _joined(some):
          collective = ones[0].kind in COLLECTIVES
          free = [line for line in lines[start + 1 : stop] if not collective or line.name not in carriers]
          windows.append(Window(tuple(ones), self._work(free), times))
    return alone, windows

  def _transfer(self, line: Instruction, where: str, times: int) -> Transfer | None:
    """The collective that an instruction performs or starts."""
    kind = line.opcode.removesuffix('-start')
    if kind not in COLLECTIVES:
      return None
    shape = line.shape
    if line.opcode.endswith('-start') and shape.startswith('('):
      # (operand, result, ...) of an asynchronous pair.
      shape = max(SHAPE.finditer(shape), key=lambda part: size_of(part[0]))[0]
    group = group_size(line.rest)
    # libtpu writes a scatter inside a fusion as the all-reduce that it starts from.
    if kind == 'all-reduce' and where.lstrip('%').startswith('all-reduce-scatter'):
      kind = 'reduce-scatter'
    elif kind == 'reduce-scatter':
      types = {other.name: other.shape for other in self.computations[where]}
      shape = ' '.join(types.get(name, '') for name in line.operands()) or shape
    if group == 1 and kind != 'collective-permute':
      return None
    channels = tuple(map(int, re.findall(r'channel_id=(\d+)', line.rest)))
    return Transfer(kind, channels, line.shape, size_of(anywhere(shape)), group, links(kind, line.rest), times)

  def _host_copy(self, line: Instruction, times: int) -> Transfer | None:
    """The copy of an array, or of a slice of one, to or from the host that an instruction starts."""
    if line.opcode not in ('copy-start', 'dynamic-slice-start', 'dynamic-update-slice-start'):
      return None
    arrays = [part[0] for part in SHAPE.finditer(line.shape)]
    remote, local = ([part for part in arrays if (_HOST_MEMORY in part) == host] for host in (True, False))
    if not remote:
      return None
    # A copy writes (result, operand, context); a slice is written to the host by an update.
    to_host = arrays[0] in remote if line.opcode == 'copy-start' else line.opcode == 'dynamic-update-slice-start'
    size = max(size_of(anywhere(part)) for part in local)
    return Transfer(HOST[0 if to_host else 1], (), line.shape, size, 1, 1, times)

  def _end(self, lines: list[Instruction], start: int) -> int:
    """Where what begins at `start` ends: at its -done, or at the end of the computation if it has none there."""
    name = lines[start].name
    for i in range(start + 1, len(lines)):
      if name in lines[i].operands():
        if lines[i].opcode.endswith('-done'):
          return i
        name = lines[i].name if lines[i].opcode.endswith('-update') else name
    return len(lines)

  def _received(self, lines: list[Instruction], start: int) -> int:
    """Where the sum that is sent at `start` has arrived; the end of the computation if it arrives elsewhere."""
    met = RENDEZVOUS.search(lines[start].rest)[1]
    received = {line.name for line in lines if line.opcode == 'recv' and f'"{met}"' in line.rest}
    done = [i for i, line in enumerate(lines) if line.opcode == 'recv-done' and received & set(line.operands())]
    return done[0] if done and done[0] > start else len(lines)

  def _work(self, lines: Iterable[Instruction]) -> Work:
    """One run of each of some instructions, with everything they call."""
    cycles, kernels = 0, []
    for line in lines:
      cycles += line.cycles()
      kernels += [kernel for inner in [line, *(inner for inner, _ in self._inside(line))]
                  if (kernel := kernel_of(inner, line, 1))]  # fmt: skip
      if line.opcode in _RUNS and line.opcode not in _FUSES:
        trips = self.trips(line) if line.opcode == 'while' else 1
        inner = self._work(inner for name in self._called(line) for inner in self.computations.get(name, ()))
        cycles += trips * inner.cycles
        kernels += [dataclasses.replace(kernel, times=trips * kernel.times) for kernel in inner.kernels]
    return Work(cycles, tuple(kernels))

  def kernels(self) -> list[Kernel]:
    """Mosaic calls, inside fusions too."""
    return [
        kernel for line, times, _ in self._scheduled() for inner in [line, *(inner for inner, _ in self._inside(line))]
        if (kernel := kernel_of(inner, line, times))
    ]  # fmt: skip

  def cycles(self) -> dict[str, int]:
    """The compiler's cycles per step: 'matrix' for fusions with a matrix product, 'memory' for everything else."""
    total = {'matrix': 0, 'memory': 0}
    for line, times, _ in self.runs():
      inside = [inner.opcode for inner, _ in self._inside(line)]
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
        shapes = [part[0] for part in SHAPE.finditer(line.shape)]
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


class _Spread:
  """The collectives of one computation that are spread over several fusions, each counted once.

  The fusions of one collective hand on its semaphores. Collectives that one fusion carries on together form a group. A
  channel does not identify them: several share channel 1.
  """

  def __init__(self):
    self._groups: list[tuple[list[Transfer], list[Instruction]]] = []
    self._of: dict[str, int] = {}

  def follow(self, line: Instruction, carried: list[Transfer]) -> None:
    """Takes the next instruction of the schedule and the spread collectives in it."""
    handed = sorted({self._of[name] for name in line.operands() if name in self._of})
    if line.opcode == 'get-tuple-element' and handed:
      if line.shape.endswith(_SEMAPHORE):
        self._of[line.name] = handed[0]
    elif carried:
      first = handed[0] if handed else len(self._groups)
      if not handed:
        self._groups.append((list(carried), []))
      for other in handed[1:]:
        self._groups[first] = tuple(mine + theirs for mine, theirs in zip(self._groups[first], self._groups[other]))
        self._groups[other] = ([], [])
        self._of = {name: first if group == other else group for name, group in self._of.items()}
      self._groups[first][1].append(line)
      # What ends a collective returns its result alone.
      if line.shape.startswith('('):
        self._of[line.name] = first

  def groups(self) -> list[tuple[list[Transfer], list[Instruction]]]:
    """(collectives, the fusions that start, carry on and end them) of each group."""
    return [group for group in self._groups if group[0]]


def _joined(spans: list[tuple[int, int, Transfer]]) -> list[tuple[int, int, list[Transfer]]]:
  """Spans that overlap as one, with all of their transfers."""
  joined = []
  for start, stop, transfer in sorted(spans, key=lambda span: span[:2]):
    if joined and start < joined[-1][1]:
      first, last, open_ = joined[-1]
      joined[-1] = first, max(last, stop), [*open_, transfer]
    else:
      joined.append((start, stop, [transfer]))
  return joined


