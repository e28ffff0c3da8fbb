"""The candidate's side of a verdict: loads the program and answers calls. Nothing here knows what is expected.

The program may do anything to this process: all it can change is what it answers.
"""

import atexit
import operator
import os
import sys
import threading
import tokenize
import types

from iquest_jax.sandbox.inside import values

_OPERATIONS = {
    'call': lambda target, *args, **kwargs: target(*args, **kwargs),
    'get': getattr,
    'set': setattr,
    'item': operator.getitem,
    'length': len,
    'list': list,
    'text': str,
    'truth': bool,
}


class _Handles:
  """Objects that do not travel, by number; one number per object, so identity survives the pipe."""

  def __init__(self):
    self.objects, self._numbers = [], {}

  def number(self, value: object) -> int:
    if id(value) not in self._numbers:
      self._numbers[id(value)] = len(self.objects)
      self.objects.append(value)
    return self._numbers[id(value)]


def serve(step: dict, fds: list[int]) -> int:
  """Executes step['source'] as module `candidate`, then answers requests until the pipe closes.

  A request is {'do': operation, 'target': value, 'args': [...], 'kwargs': {...}} or {'do': 'name', 'name': text}; the
  answer is {'value': ...}, with 'args' if the call changed its arguments in place, or {'raised': type, 'text': ...}.
  """
  channel, handles = values.Channel(*fds[:2]), _Handles()
  module = types.ModuleType('candidate')
  sys.path.insert(0, os.getcwd())
  sys.modules['candidate'] = module

  def load(request):
    exec(compile(step['source'], 'candidate.py', 'exec'), module.__dict__)
    return {'value': None}

  def answer(request):
    if request['do'] == 'name':
      if request['name'] not in module.__dict__:
        raise NameError(f"name '{request['name']}' is not defined")
      return {'value': values.encode(module.__dict__[request['name']], handles.number)}
    decode = lambda data: values.decode(data, handles.objects.__getitem__)
    args = [decode(item) for item in request['args']]
    kwargs = {name: decode(item) for name, item in request['kwargs'].items()}
    result = _OPERATIONS[request['do']](decode(request['target']), *args, **kwargs)
    after = [values.encode(item, handles.number) for item in args]
    changed = {'args': after} if after != request['args'] else {}
    return {'value': values.encode(result, handles.number), **changed}

  work, request = load, {}
  while request is not None:
    try:
      reply = work(request)
    except Exception as error:
      reply = {'raised': type(error).__name__, 'text': _text_of(error)}
    channel.send(reply)
    if work is load and 'raised' in reply:
      return 1
    work, request = answer, channel.receive()
  return 0


def run_main(step: dict, fds: list[int]) -> int:
  """Runs the file step['file'] as `python FILE` would, without the time that starting an interpreter takes."""
  module = sys.modules['__main__'] = types.ModuleType('__main__')
  sys.argv, sys.path = [step['file']], [os.getcwd(), *sys.path]
  try:
    with tokenize.open(step['file']) as file:
      source = file.read()
    exec(compile(source, step['file'], 'exec'), module.__dict__)
  finally:
    threading._shutdown()
    atexit._run_exitfuncs()
  return 0


def _text_of(error: Exception) -> str:
  try:
    return str(error)[:1000]
  except Exception:
    return ''
