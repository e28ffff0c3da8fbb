"""Tools of environments: a calculator, and Python in the sandbox. A result is text, for the same call the same."""

import dataclasses
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from iquest_jax.sandbox import languages
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool

# ours: what one call may use, and how much of its output is shown.
PYTHON_LIMITS = Limits(wall_s=20.0, cpu_s=5.0, memory_bytes=256 << 20)
_SHOWN = 2000  # characters of output
_LONGEST, _DEEPEST = 300, 50  # characters of an expression, and parentheses within each other
_MAX_BITS = 4096  # of a number, its denominator included
_NUMBER = re.compile(r'(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?')
_OPERATOR = re.compile(r'\*\*|//|[-+*/%^()]')


class ToolError(Exception):
  """What is wrong with a call, in one line for the model."""


@dataclasses.dataclass(frozen=True)
class Tool:
  """A function with one argument, a string.

  Attributes:
    name, description, argument: as the model is told.
    run: (argument) -> result; raises ToolError for what the caller did wrong.
  """

  name: str
  description: str
  argument: str
  run: Callable[[str], str]

  @property
  def definition(self) -> Mapping[str, Any]:
    """The tool as a conversation lists it."""
    properties = {self.argument: {'type': 'string'}}
    parameters = {'type': 'object', 'properties': properties, 'required': [self.argument]}
    function = {'name': self.name, 'description': self.description, 'parameters': parameters}
    return {'type': 'function', 'function': function}

  def __call__(self, arguments: Mapping[str, Any]) -> str:
    """Raises ToolError if the arguments are not those of the definition, or the function refuses them."""
    if arguments.keys() != {self.argument} or not isinstance(arguments[self.argument], str):
      raise ToolError(f'{self.name} takes one argument, the string "{self.argument}"')
    return self.run(arguments[self.argument])


def calculator() -> Tool:
  """Exact arithmetic: + - * / // % ** (or ^), parentheses and decimal numbers."""
  description = 'Evaluates an arithmetic expression: + - * / // % ** and parentheses.'
  return Tool('calculator', description, 'expression', lambda text: _written(evaluate(text)))


def python(pool: Pool, limits: Limits = PYTHON_LIMITS) -> Tool:
  """Runs a program in the sandbox and returns what it printed, with its error or the limit it exceeded."""
  return Tool('python', 'Runs a Python program and returns what it prints.', 'code', lambda code: _ran(code, pool, limits))


def executed(pool: Pool) -> dict[str, Tool]:
  """{name: tool}, what a prompt may name to have its calls executed."""
  return {tool.name: tool for tool in (calculator(), python(pool))}


def evaluate(text: str) -> Fraction:
  """The exact value of an arithmetic expression.

  Raises:
    ToolError: it is malformed, divides by zero, or a number in it becomes too large.
  """
  if len(text) > _LONGEST:
    raise ToolError(f'the expression has {len(text)} characters, at most {_LONGEST} are evaluated')
  parser = _Parser(text)
  value = parser.sum()
  if parser.next:
    raise ToolError(f'unexpected "{parser.next}"')
  return value


class _Parser:
  """Recursive descent, one method per level of precedence, as in Python's grammar."""

  def __init__(self, text: str):
    self._tokens, self._depth = _tokens(text), 0
    self.next = next(self._tokens)

  def _take(self) -> str:
    token, self.next = self.next, next(self._tokens)
    return token

  def sum(self) -> Fraction:
    value = self._product()
    while self.next in ('+', '-'):
      value = _apply(_OPERATIONS[self._take()], value, self._product())
    return value

  def _product(self) -> Fraction:
    value = self._signed()
    while self.next in ('*', '/', '//', '%'):
      value = _apply(_OPERATIONS[self._take()], value, self._signed())
    return value

  def _signed(self) -> Fraction:
    negative = False
    while self.next in ('+', '-'):
      negative ^= self._take() == '-'
    return -self._power() if negative else self._power()

  def _power(self) -> Fraction:
    base = self._atom()
    if self.next not in ('**', '^'):
      return base
    self._take()
    exponent = self._signed()  # to the right: 2 ** 3 ** 2 is 2 ** 9
    if exponent.denominator != 1:
      raise ToolError('exponents must be whole numbers')
    if abs(exponent) * (_bits(base) - 1) > _MAX_BITS:  # before it is computed
      raise ToolError('a number becomes too large')
    return _apply(operator.pow, base, exponent)

  def _atom(self) -> Fraction:
    token = self._take()
    if token == '(':
      self._depth += 1
      if self._depth > _DEEPEST:
        raise ToolError(f'more than {_DEEPEST} parentheses within each other')
      value = self.sum()
      if self._take() != ')':
        raise ToolError('a parenthesis is not closed')
      self._depth -= 1
      return value
    if not _NUMBER.fullmatch(token):
      raise ToolError(f'expected a number, got "{token}"' if token else 'the expression is cut off')
    return Fraction(token)


_OPERATIONS: dict[str, Callable[[Fraction, Fraction], Any]] = {
    '+': operator.add, '-': operator.sub, '*': operator.mul, '/': operator.truediv, '//': operator.floordiv,
    '%': operator.mod,
}  # fmt: skip


def _tokens(text: str) -> Iterator[str]:
  """Numbers and operators, then '' without end."""
  at, text = 0, text.strip()
  while at < len(text):
    found = _NUMBER.match(text, at) or _OPERATOR.match(text, at)
    if not found:
      raise ToolError(f'unexpected "{text[at]}"')
    yield found[0]
    at = found.end()
    at += len(text[at:]) - len(text[at:].lstrip())
  while True:
    yield ''


def _apply(operation: Callable[[Fraction, Fraction], Any], left: Fraction, right: Fraction) -> Fraction:
  try:
    value = Fraction(operation(left, right))
  except ZeroDivisionError:
    raise ToolError('division by zero') from None
  if _bits(value) > _MAX_BITS:
    raise ToolError('a number becomes too large')
  return value


def _bits(value: Fraction) -> int:
  return max(value.numerator.bit_length(), value.denominator.bit_length())


def _written(value: Fraction) -> str:
  """Whole numbers in full, others to 15 digits."""
  if value.denominator == 1:
    return str(value.numerator)
  try:
    return f'{float(value):.15g}'
  except OverflowError:
    raise ToolError('a number becomes too large') from None


def _ran(code: str, pool: Pool, limits: Limits) -> str:
  if '\0' in code:
    raise ToolError('the program contains a NUL character')
  steps = languages.steps('python', ('',), limits, pool.backend)
  file = languages.LANGUAGES['python'].file
  with pool.runner() as runner:
    done = runner.run(steps, {file: code})[0]
  parts = [_cut(done.stdout)]
  if done.limit:
    parts.append(f'error: the program exceeded the limit of {done.limit}')
  elif done.exit:
    # What stands above the program's own frames names files of the sandbox.
    trace = done.stderr[max(done.stderr.find(f'  File "{file}"'), 0) :]
    parts.append(f'error: the program ended with status {done.exit}\n{_cut(trace)}')
  return '\n'.join(part.rstrip('\n') for part in parts if part) or '(no output)'


def _cut(text: str) -> str:
  """Both ends of a long text, because an error's cause is at its end."""
  half = _SHOWN // 2
  return text if len(text) <= _SHOWN else f'{text[:half]}\n... {len(text) - _SHOWN} characters ...\n{text[-half:]}'
