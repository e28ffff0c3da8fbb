"""Composes random Python functions that always end: level 3 of the generated programs.

Every variable has one type, every index is in range, every divisor is a positive constant, and loops run over small
ranges or values, so a program neither fails nor runs long. The grammar is ours.
"""

import random

from iquest_jax.data.build.reasoning.kinds import Task

_WORDS = ('tea', 'moon', 'code', 'banana', 'kiwi', 'level', 'sand')
_MOST_STATEMENTS = 9


class _Writer:
  """Writes one function: its lines so far, and the names that may be used, by type."""

  def __init__(self, rng: random.Random, helper: bool):
    self._rng, self._helper, self._left = rng, helper, rng.randint(5, _MOST_STATEMENTS)
    self.lines: list[str] = []
    self.names: dict[str, list[str]] = {'int': [], 'list': [], 'str': []}

  def block(self, indent: int, most: int) -> None:
    """Writes one to `most` statements."""
    for _ in range(self._rng.randint(1, most)):
      if self._left > 0:
        self._left -= 1
        self._statement(indent)

  def _statement(self, indent: int) -> None:
    rng = self._rng
    simple = [self._update, self._update, self._new_number, self._grow_list, self._grow_text]
    compound = [self._if, self._if, self._for_range, self._for_list, self._for_text]
    rng.choice(simple + compound * (indent < 3 and self._left > 1))(indent)

  def line(self, indent: int, text: str) -> None:
    self.lines.append('  ' * indent + text)

  def _update(self, indent):
    name = self._rng.choice(self.names['int'])
    self.line(indent, f'{name} {self._rng.choice(("+", "-", "+", "*"))}= {self.number(1)}')
    if self._rng.random() < 0.4:
      self.line(indent, f'{name} %= {self._rng.choice((7, 10, 13, 50))}')

  def _new_number(self, indent):
    name = self._rng.choice('uvw')
    self.line(indent, f'{name} = {self.number(2)}')
    if indent == 1 and name not in self.names['int']:  # Set in a branch it may be missing later.
      self.names['int'].append(name)

  def _grow_list(self, indent):
    name = self._rng.choice(self.names['list'])
    forms = f'{name}.append({self.number(1)})', f'{name} = {name}[::-1]', f'{name} = sorted({name})'
    self.line(indent, self._rng.choice(forms))

  def _grow_text(self, indent):
    name, letter = self._rng.choice(self.names['str']), self._rng.choice('abxyz')
    forms = f"+= '{letter}'", f'= {name}[1:]', f"= {name}.replace('{letter}', '')", f'= {name}[::-1]'
    self.line(indent, f'{name} {self._rng.choice(forms)}')

  def _if(self, indent):
    self.line(indent, f'if {self.condition()}:')
    self.block(indent + 1, 2)
    self._not_empty(indent)
    if self._rng.random() < 0.5:
      self.line(indent, 'else:')
      self.block(indent + 1, 2)
      self._not_empty(indent)

  def _for_range(self, indent):
    self._for(indent, 'ijk'[indent - 1], f'range({self._rng.randint(2, 4)})', 'int')

  def _for_list(self, indent):
    self._for(indent, 'abc'[indent - 1], f'list({self._rng.choice(self.names["list"])})[:4]', 'int')

  def _for_text(self, indent):
    self._for(indent, 'qrs'[indent - 1], f'{self._rng.choice(self.names["str"])}[:4]', 'str')

  def _for(self, indent, name, iterated, kind):
    self.line(indent, f'for {name} in {iterated}:')
    readable = [*self.names[kind]]
    if kind == 'int':
      self.names['int'] = [*readable, name]
    self.block(indent + 1, 3)
    self._not_empty(indent)
    self.names[kind] = [each for each in self.names[kind] if each != name]

  def _not_empty(self, indent):
    if self.lines[-1].endswith(':'):
      self.line(indent + 1, f'{self._rng.choice(self.names["int"])} += 1')

  def number(self, depth: int) -> str:
    """An expression of an integer."""
    rng, names = self._rng, self.names
    if depth == 0 or rng.random() < 0.3:
      return rng.choice([str(rng.randint(1, 9)), *names['int'], rng.choice(names['int'])])
    one, other = self.number(depth - 1), self.number(depth - 1)
    text, numbers, small = rng.choice(names['str']), rng.choice(names['list']), rng.randint(2, 5)
    forms = [f'{one} + {other}', f'{one} - {other}', f'({one} + {other}) % {small + 3}', f'{one} // {small}', f'abs({one})',
             f'max({one}, {other})', f'len({text})', f'sum({numbers})', f'len({numbers}) * {small}']  # fmt: skip
    return rng.choice(forms + [f'g({one})'] * 3 * self._helper)

  def condition(self) -> str:
    rng = self._rng
    return rng.choice((
        f'{self.number(1)} {rng.choice(("<", ">", "==", "!="))} {self.number(1)}',
        f'{rng.choice(self.names["int"])} % {rng.randint(2, 4)} == {rng.randint(0, 1)}',
        f"'{rng.choice('aenox')}' in {rng.choice(self.names['str'])}",
        f'len({rng.choice(self.names["list"])}) > 2',
    ))  # fmt: skip


def task(rng: random.Random) -> Task:
  """A function of one to three parameters, in half of the cases with a helper; its result or its inputs are asked for."""
  helper = rng.random() < 0.5
  body = _Writer(rng, helper)
  parameters = rng.choice((('n',), ('n', 's'), ('xs', 'n'), ('n', 'm'), ('s', 'n', 'xs')))
  kinds = {'n': 'int', 'm': 'int', 's': 'str', 'xs': 'list'}
  body.line(0, f'def f({", ".join(parameters)}):')
  for name in parameters:
    body.names[kinds[name]].append(name)
  numbers = rng.sample(range(10), rng.randint(0, 3))
  for name, kind, start in (
      ('t', 'int', str(rng.randint(0, 5))), ('out', 'list', str(numbers)), ('p', 'str', repr(rng.choice(_WORDS))),
  ):  # fmt: skip
    if name == 't' or not body.names[kind]:
      body.line(1, f'{name} = {start}')
      body.names[kind].append(name)
  for _ in range(3):
    body.block(1, 3)
  result = rng.choice(body.names['list'] + body.names['str'] + body.names['int'] * 2)
  body.line(1, f'return {rng.choice((result, result, f"{result}, t"))}')
  source = '\n'.join(body.lines) + '\n'
  if helper:
    source = f'def g(x):\n{_helper_body(rng)}\n{source}'
  if parameters == ('n',) and rng.random() < 0.5:
    return Task(source=source, domain=tuple(map(str, range(10))), parameters=parameters, statement='`n` in `range(10)`')
  values = {'n': rng.randint(0, 9), 'm': rng.randint(0, 9), 's': rng.choice(_WORDS), 'xs': rng.choices(range(10), k=3)}
  return Task(f'f({", ".join(repr(values[name]) for name in parameters)})', source)


def _helper_body(rng: random.Random) -> str:
  a, b = rng.randint(2, 5), rng.randint(1, 9)
  return rng.choice((
      f'  return x * {a} - {b}\n',
      f'  return x % {a} + {b}\n',
      f'  if x > {b}:\n    return x - {a}\n  return x + {a}\n',
      f'  if x < {a}:\n    return {b}\n  return g(x // {a}) + 1\n',
      f'  y = 0\n  while x > {b}:\n    x -= {a + 2}\n    y += 1\n  return y\n',
  ))  # fmt: skip
