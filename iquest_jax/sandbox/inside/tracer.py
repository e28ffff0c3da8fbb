"""Runs small Python programs and records their lines, changed variables and results; needs the standard library alone.

It is used in two places: in the sandbox for programs of others (see sandbox/tracing.py), and in the caller's process for
programs that this project generated. Limits that decide an outcome count lines and characters, never seconds.
"""

import ast
import json
import math
import sys
import types

FILE = '<program>'
_SEQUENCES = {list: '[]', tuple: '()', set: '{}', frozenset: '{}'}
# What doubles with every line is stopped while it is small, and memory and time need no other limit than lines.
_LINES_BETWEEN_LOOKS, _LARGE = 4, 100_000
_NOT_SHOWN = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)


class TooLong(Exception):
  """The text of a value has more characters than allowed."""


class NotPlain(Exception):
  """A value is not made of None, bool, int, finite float, str, bytes, list, tuple, set and dict alone."""


class _Stop(BaseException):
  """A limit was reached; programs that catch Exception do not catch this."""


def _as_text(item: object) -> str:
  try:
    return literal(item, _LARGE, strict=False)
  except TooLong:
    return ''


def _rearranged(order: str) -> dict[str, type]:
  """A set and a frozenset that are iterated in the order of their items as text, in its reverse, or rotated by one.

  Of any two items, each comes first in one of the orders; and every item has several places.
  """
  made = {}

  def again(value):
    return made[type(value).__name__](value) if type(value) in (set, frozenset) else value

  def kept(method):
    return lambda self, *others: again(method(self, *others))

  def of_base(base):
    def items(self):
      found = sorted(base.__iter__(self), key=_as_text)
      return iter({'sorted': found, 'reversed': found[::-1], 'rotated': found[1:] + found[:1]}[order])

    def pop(self):
      for item in self:
        base.remove(self, item)
        return item
      raise KeyError('pop from an empty set')  # as the built-in one

    def text(self):
      inside = f'{{{", ".join(map(repr, self))}}}' if self else ''
      return inside if inside and base is set else f'{base.__name__}({inside})'

    names = ('union', 'intersection', 'difference', 'symmetric_difference', 'copy', *(
        f'__{side}{name}__' for side in ('', 'r') for name in ('or', 'and', 'sub', 'xor')
    ))  # fmt: skip
    own = {name: kept(getattr(base, name)) for name in names} | {'__iter__': items, '__repr__': text}
    return type(base.__name__, (base,), own | ({'pop': pop} if base is set else {}))

  made |= {base.__name__: of_base(base) for base in (set, frozenset)}
  return made | {_AGAIN: again}


_AGAIN = '__in_another_order__'  # Passes on whatever is not a set.
ORDERS = ('sorted', 'reversed', 'rotated')
_ORDERS = {order: _rearranged(order) for order in ORDERS}
_BUILT_IN = {names[base.__name__]: base for names in _ORDERS.values() for base in (set, frozenset)}


class _Rearranging(ast.NodeTransformer):
  """Puts what the syntax of a program makes into another order: displays, comprehensions, and the algebra of views."""

  def visit_Set(self, node):
    self.generic_visit(node)
    return ast.copy_location(ast.Call(ast.copy_location(ast.Name(_AGAIN, ast.Load()), node), [node], []), node)

  visit_SetComp = visit_Set

  def visit_BinOp(self, node):
    if isinstance(node.op, (ast.BitAnd, ast.BitOr, ast.BitXor, ast.Sub)):
      return self.visit_Set(node)
    return self.generic_visit(node)


def _compiled(source: str, name: str, mode: str, order: str) -> types.CodeType:
  program = _Rearranging().visit(ast.parse(source, name, mode)) if order else source
  return compile(program, name, mode, dont_inherit=True)


def literal(value: object, room: int, strict: bool = True) -> str:
  """Returns a value as a Python literal of at most `room` characters, with sets in sorted order.

  Args:
    strict: raise NotPlain for other values; otherwise those of `collections` and ranges are written readably, and the
      rest as <type>. Methods of the value are never called, unless its type is built in.

  Raises:
    TooLong: also for values that contain themselves.
    NotPlain: see `strict`.
  """
  if room < 0:
    raise TooLong
  text, kind = '', _BUILT_IN.get(type(value), type(value))
  if value is None or kind is bool:
    text = repr(value)
  elif kind is int:
    text = repr(value) if value.bit_length() <= 4 * max(room, 1) else None
  elif kind is float and (not strict or math.isfinite(value)):
    text = repr(value)
  elif kind is str or kind is bytes:
    text = repr(value) if len(value) <= room else None
  elif kind in _SEQUENCES and not (strict and kind is frozenset):
    text = _sequence(value, kind, room, strict)
  elif kind is dict:
    text = _dict(value, room, strict)
  elif strict:
    raise NotPlain(kind.__name__)
  elif kind is range:
    text = repr(value)
  elif kind.__module__ == 'collections' and isinstance(value, dict):
    text = f'{kind.__name__}({_dict(value, room, strict)})'
  elif kind.__module__ == 'collections' and kind.__name__ == 'deque':
    text = f'deque({_sequence(value, list, room, strict)})'
  else:
    text = f'<{kind.__name__}>'
  if text is None or len(text) > room:
    raise TooLong
  return text


def _sequence(value, kind, room, strict):
  items = []
  for item in value:
    items.append(literal(item, room - 2, strict))
    room -= len(items[-1]) + 2
  if kind in (set, frozenset):
    items.sort()
  if not items and kind is set:
    return 'set()'
  opening, closing = _SEQUENCES[kind]
  text = f'{opening}{", ".join(items)}{"," if kind is tuple and len(items) == 1 else ""}{closing}'
  return text if kind is not frozenset else f'frozenset({text if items else ""})'


def _dict(value, room, strict):
  items = []
  for key, item in dict.items(value):
    left = literal(key, room - 2, strict)
    items.append(f'{left}: {literal(item, room - 2 - len(left), strict)}')
    room -= len(items[-1]) + 2
  return f'{{{", ".join(items)}}}'


class _Recorder:
  """Counts the lines of a program, and records them if asked to."""

  def __init__(self, steps: int, longest: int, targets: dict[int, list[str]]):
    self.left, self.longest, self.targets = steps, longest, targets
    self.count, self.depth, self.events = 0, 0, []

  def step(self) -> None:
    self.count += 1
    if self.count > self.left:
      raise _Stop('steps')

  def counting(self, frame, event, arg):
    if frame.f_code.co_filename != FILE:
      return None
    if event == 'line':
      self.step()
      if self.count % _LINES_BETWEEN_LOOKS == 0 and any(map(_is_large, frame.f_locals.values())):
        raise _Stop('size')
    return self.counting

  def recording(self, frame, event, arg):
    """The trace function of calls: comprehensions and lambdas are counted, not shown."""
    name = frame.f_code.co_name
    if frame.f_code.co_filename != FILE:
      return None
    if name.startswith('<') and name != '<module>':
      return self.counting
    return _Frame(self, frame).trace


class _Frame:
  """One call while it runs: what its variables were when last seen."""

  def __init__(self, recorder: _Recorder, frame: types.FrameType):
    self._recorder, self._known, self._line, self._raised = recorder, {}, None, False
    arguments = self._changes(frame, ())
    self._depth = recorder.depth
    recorder.depth += 1
    recorder.events.append(['call', self._depth, frame.f_lineno, frame.f_code.co_name, arguments])

  def trace(self, frame, event, arg):
    recorder = self._recorder
    if event in ('line', 'return') and self._line is not None:
      always = () if self._raised else recorder.targets.get(self._line[2], ())
      self._line[4].update(self._changes(frame, always))
      self._line = None
    if event == 'line':
      recorder.step()
      self._raised = False
      self._line = ['line', self._depth, frame.f_lineno, '', {}]
      recorder.events.append(self._line)
    elif event == 'exception':
      self._raised = arg[0].__name__
    elif event == 'return':
      recorder.depth -= 1
      ended = ['raise', self._depth, frame.f_lineno, self._raised, {}]
      if not (self._raised and arg is None):
        ended = ['return', self._depth, frame.f_lineno, _text(arg, recorder.longest), {}]
      recorder.events.append(ended)
    return self.trace

  def _changes(self, frame, always):
    changed = {}
    for name, value in frame.f_locals.items():
      if name.startswith(('.', '__')) or isinstance(value, _NOT_SHOWN):
        continue
      text = _text(value, self._recorder.longest)
      if self._known.get(name) != text or name in always:
        self._known[name] = changed[name] = text
    return changed


def _is_large(value: object) -> bool:
  """Whether a variable holds more than a hundred thousand characters, items or bits."""
  kind = type(value)
  return (kind is str or kind is list) and len(value) > _LARGE or kind is int and value.bit_length() > _LARGE


def _text(value: object, longest: int) -> str:
  try:
    return literal(value, longest, strict=False)
  except TooLong:
    raise _Stop('size') from None


def run(
    program: types.CodeType, expression: types.CodeType, mode: str, steps: int = 1000, longest: int = 200,
    targets: dict[int, list[str]] | None = None, builtins: object = None, order: str = '',
) -> dict:  # fmt: skip
  """Executes a program in a fresh namespace, evaluates an expression in it, and returns what happened.

  Args:
    program: compiled with FILE as its name; only its own lines are counted and recorded.
    expression: compiled with another name; the outcome is its value.
    mode: 'plain' executes without a trace function, so without a limit on lines; 'count' counts the program's lines
      that the expression executes; 'record' also records them; 'whole' records those of the program's top level too.
    steps: most lines.
    longest: most characters of a value, in the record and as the result.
    targets: names that a line assigns, by line; they are recorded whether or not their value changed.
    builtins: the program's; None gives it all.
    order: how sets are iterated: '' as built in, or one of ORDERS; program and expression are compiled for the same.

  Returns:
    {'text': literal of the value, or 'error': name of the exception, or 'stopped': 'steps', 'size', or 'kind' if the
    value is not plain; and 'steps': lines executed, 'events': [[kind, depth, line, text, changes], ...]}.
    Kinds of events: call (text is the function's name), line, return (text is the value), raise (the exception).
  """
  recorder = _Recorder(steps, longest, targets or {})
  builtins = builtins or vars(sys.modules['builtins'])
  scope = {'__name__': 'program', '__builtins__': {**builtins, **_ORDERS[order]} if order else builtins}
  outcome, before = {}, sys.gettrace()
  trace = recorder.recording if mode in ('record', 'whole') else recorder.counting if mode == 'count' else None
  try:
    if mode == 'whole':
      sys.settrace(trace)
    exec(program, scope)
    sys.settrace(trace)
    value = eval(expression, scope)
    sys.settrace(before)
    outcome['text'] = literal(value, longest)
  except (Exception, SystemExit, _Stop) as error:
    sys.settrace(before)
    name = type(error).__name__
    outcome |= {'stopped': str(error)} if name == '_Stop' else {'error': name}
    if isinstance(error, (TooLong, NotPlain)):
      outcome = {'stopped': 'size' if name == 'TooLong' else 'kind'}
  return {**outcome, 'steps': recorder.count, 'events': recorder.events}


def run_all(batch: dict, builtins: object = None) -> list[dict]:
  """The outcomes of a batch: its 'source', its 'expressions', and the other arguments of `run` by name.

  A source that does not compile or load gives {'stopped': 'load'} for every expression.
  """
  fields = {name: batch[name] for name in ('mode', 'steps', 'longest', 'order')}
  fields['targets'] = {int(line): names for line, names in batch['targets'].items()}
  try:
    program = _compiled(batch['source'], FILE, 'exec', batch['order'])
    expressions = [_compiled(text, '<expression>', 'eval', batch['order']) for text in batch['expressions']]
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return [{'stopped': 'load', 'steps': 0, 'events': []} for _ in batch['expressions']]
  return [run(program, expression, **fields, builtins=builtins) for expression in expressions]


def main() -> None:
  """Reads {'batches': [...]} from standard input and writes one line of JSON per batch, as soon as it is finished."""
  # What a program prints goes nowhere: it must not look like an outcome.
  output, sys.stdout = sys.stdout, None
  for batch in json.load(sys.stdin)['batches']:
    output.write(json.dumps(run_all(batch)) + '\n')
    output.flush()
