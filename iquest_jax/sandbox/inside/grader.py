"""The grader's side of a verdict: runs the tests against a candidate that lives in another sandbox.

The tests see the candidate's functions, classes and objects as proxies. Only plain data comes back over the pipe, so a
comparison runs the grader's code alone, and the token that a pass needs never leaves this process for the candidate.
"""

import ast
import builtins
import contextlib
import json
import linecache
import math
import os
import sys
import traceback
import types

from iquest_jax.sandbox.inside import values

_REPORT_BYTES = 8192


class CandidateGone(BaseException):
  """The candidate's process ended or broke the protocol; tests that catch Exception do not catch this."""


class _Candidate:
  """The connection, and the proxies by number."""

  def __init__(self, read: int, write: int):
    self._channel, self._proxies, self.gone = values.Channel(read, write), {}, None

  def receive(self) -> object:
    """Returns the candidate's answer, its exceptions raised again as the built-in type of that name.

    Raises:
      CandidateGone: the candidate sent no answer, or one that violates the protocol.
    """
    try:
      reply = self._channel.receive()
      if reply is None:
        raise ValueError('the program ended before the tests did')
      if 'raised' not in reply:
        return values.decode(reply['value'], self._proxy), [values.decode(a, self._proxy) for a in reply.get('args', ())]
      kind = getattr(builtins, str(reply['raised']), None)
      kind = kind if isinstance(kind, type) and issubclass(kind, Exception) else None
      text = str(reply.get('text', ''))
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
      self.gone = self.gone or str(error)[:200]
      raise CandidateGone(self.gone) from None
    try:
      error = kind(text) if kind else None
    except TypeError:  # UnicodeDecodeError and its like want other arguments.
      error = None
    raise error or RuntimeError(f'{reply["raised"]}: {text}')

  def ask(self, do: str, target: object = None, args: tuple = (), kwargs: dict | None = None, name: str = '') -> object:
    """Has the candidate perform an operation; changes it makes to lists, dicts and sets in `args` are copied back."""
    if self.gone:
      raise CandidateGone(self.gone)
    number = lambda value: _number_of(value)
    request = {
        'do': do,
        'name': name,
        'target': values.encode(target, number),
        'args': [values.encode(arg, number) for arg in args],
        'kwargs': {key: values.encode(value, number) for key, value in (kwargs or {}).items()},
    }
    with contextlib.suppress(OSError):  # A broken pipe shows as an answer that never comes.
      self._channel.send(request)
    result, changed = self.receive()
    for before, after in zip(args, changed):
      if type(before) is type(after) and isinstance(before, (list, dict, set)):
        before.clear()
        (before.extend if isinstance(before, list) else before.update)(after)
    return result

  def _proxy(self, number: int) -> 'Remote':
    if number not in self._proxies:
      proxy = self._proxies[number] = Remote()
      object.__setattr__(proxy, '_remote', (self, number))
    return self._proxies[number]


class Remote:
  """An object of the candidate: calls, attributes, items, length, iteration, text and truth are asked of it.

  Equality is identity, which the program is never asked about. Arithmetic, ordering and isinstance are not supported.
  """

  def _ask(self, do, *args, **kwargs):
    candidate, _ = object.__getattribute__(self, '_remote')
    return candidate.ask(do, self, args, kwargs)

  def __call__(self, *args, **kwargs):
    return Remote._ask(self, 'call', *args, **kwargs)

  def __getattr__(self, name):
    return Remote._ask(self, 'get', name)

  def __setattr__(self, name, value):
    Remote._ask(self, 'set', name, value)

  def __getitem__(self, key):
    return Remote._ask(self, 'item', key)

  def __len__(self):
    return Remote._ask(self, 'length')

  def __iter__(self):
    return iter(Remote._ask(self, 'list'))

  def __str__(self):
    return str(Remote._ask(self, 'text'))

  def __bool__(self):
    return bool(Remote._ask(self, 'truth'))


def _number_of(value: object) -> int:
  if type(value) is not Remote:
    raise TypeError(f'a value of type {type(value).__name__} cannot be sent to the candidate')
  return object.__getattribute__(value, '_remote')[1]


class _Names(dict):
  """Globals of a test script: names it does not define are the candidate's, built-in ones excepted."""

  def __init__(self, candidate: _Candidate):
    super().__init__(__name__='tests', __builtins__=builtins)
    self._candidate = candidate

  def __missing__(self, name):
    if hasattr(builtins, name):
      raise KeyError(name)
    return self._candidate.ask('name', name=name)


def same(got: object, expected: object, tolerance: float = 0.0, sequences: bool = False) -> bool:
  """Whether a result is the expected one.

  Args:
    tolerance: absolute and relative difference allowed between floats, as math.isclose does.
    sequences: lists and tuples compare equal.
  """
  if tolerance and isinstance(got, (int, float)) and isinstance(expected, float):
    return math.isclose(got, expected, rel_tol=tolerance, abs_tol=tolerance)
  if isinstance(got, (list, tuple)) and isinstance(expected, (list, tuple)):
    kinds = sequences or isinstance(got, list) == isinstance(expected, list)
    return kinds and len(got) == len(expected) and all(same(g, e, tolerance, sequences) for g, e in zip(got, expected))
  if isinstance(got, dict) and isinstance(expected, dict):
    return got.keys() == expected.keys() and all(same(got[k], expected[k], tolerance, sequences) for k in expected)
  return type(got) is not Remote and got == expected


def grade(step: dict, fds: list[int]) -> int:
  """Runs the tests of `step` and writes the report; see `verdict` for the fields of the step."""
  candidate = _Candidate(fds[0], fds[1])
  report = {'passed': 0}
  try:
    candidate.receive()
    if 'calls' in step:
      _grade_calls(step, candidate, report)
    else:
      _grade_script(step, candidate, report)
    if candidate.gone:  # Although the tests caught it.
      raise CandidateGone(candidate.gone)
    report['token'] = step['token']
  except BaseException as error:
    report |= _failure(error)
    report.setdefault('test', _failing_statement(error, step.get('script', '')))
  os.write(fds[2], json.dumps(report).encode()[:_REPORT_BYTES])
  return 0


def _failure(error: BaseException) -> dict:
  return {'kind': type(error).__name__, 'reason': f'{type(error).__name__}: {str(error)[:300]}'.rstrip(' ')}


def _grade_calls(step: dict, candidate: _Candidate, report: dict) -> None:
  names, first = _Names(candidate), {}
  for call in step['calls']:
    args = values.decode(call['args'])
    kwargs = {name: values.decode(value) for name, value in call['kwargs'].items()}
    shown = ', '.join([*map(repr, args), *(f'{k}={v!r}' for k, v in kwargs.items())])
    report['test'] = f'{call["function"]}({shown})'[:300]
    try:
      got, expected = eval(call['function'], names)(*args, **kwargs), values.decode(call['expected'])
      if not same(got, expected, step['tolerance'], step['sequences']):
        shown = 'an object' if type(got) is Remote else repr(got)[:150]
        raise AssertionError(f'returned {shown}, expected {repr(expected)[:150]}')
      report['passed'] += 1
    except Exception as error:
      if not step['run_all']:
        raise
      first = first or {**_failure(error), 'test': report['test']}
  report |= {'test': '', **first}


def _grade_script(step: dict, candidate: _Candidate, report: dict) -> None:
  names = _Names(candidate)
  module = types.ModuleType(step['module'])
  module.__getattr__ = lambda name: _attribute(candidate, name)
  sys.modules[step['module']] = module
  for name in step['names']:
    names[name] = candidate.ask('name', name=name)
  exec(compile(step['setup'], '<setup>', 'exec'), names)
  linecache.cache['<tests>'] = (len(step['script']), None, step['script'].splitlines(True), '<tests>')
  exec(compile(step['script'], '<tests>', 'exec'), names)
  report['passed'] = 1


def _attribute(candidate: _Candidate, name: str) -> object:
  """Returns a global of the candidate as an attribute of its module."""
  if not name.startswith('__'):  # What the import system asks for.
    with contextlib.suppress(NameError):
      return candidate.ask('name', name=name)
  raise AttributeError(f'the program defines no {name}')


def _failing_statement(error: BaseException, script: str) -> str:
  """Returns the statement of the test script that was running, its first 300 characters."""
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == '<tests>']
  if not lines or not script:
    return ''
  covering = [
      node
      for node in ast.walk(ast.parse(script))
      if isinstance(node, ast.stmt) and node.lineno <= lines[-1] <= (node.end_lineno or node.lineno)
  ]
  innermost = max(covering, key=lambda node: (node.lineno, -(node.end_lineno or 0)))
  return (ast.get_source_segment(script, innermost) or '')[:300]
