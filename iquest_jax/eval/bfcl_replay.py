"""Runs in the sandbox: replays calls on the API classes of BFCL's multi-turn categories and compares what came of them.

Reads job.json: {'classes': {name: module}, 'config', 'long_context', 'model': turns of steps of calls, 'gold': turns of
calls}; a call is {'name', 'positional', 'arguments'}. Prints {'results': what the model's calls gave, 'failed': why the
model's turns do not equal gold's, or ''}. Only the standard library and the classes are at hand here.
"""

import copy
import importlib
import inspect
import json


def main() -> None:
  with open('job.json') as file:
    job = json.load(file)
  ours, gold = _Instances(job), _Instances(job)
  results, failed, seen = [], '', []
  for turn, steps in enumerate(job['model']):
    results.append([[ours.call(call) for call in calls] for calls in steps])
    seen += [result for step in results[-1] for result in step]
    wanted = job['gold'][turn] if turn < len(job['gold']) else []
    expected = [gold.call(call) for call in wanted]
    if wanted and not failed:  # A turn without calls of gold's is compared at the next one.
      failed = _difference(ours, gold, seen, expected, any(steps))
      failed = failed and f'turn {turn + 1}: {failed}'
  print(json.dumps({'results': results, 'failed': failed}))


class _Instances:
  """One instance of every class, each with its own copy of the configuration."""

  def __init__(self, job: dict):
    self.by_class, self._methods = {}, {}
    for name, module in job['classes'].items():
      instance = self.by_class[name] = getattr(importlib.import_module(module), name)()
      if hasattr(instance, '_load_scenario'):
        instance._load_scenario(copy.deepcopy(job['config'].get(name, {})), long_context=job['long_context'])
      for method, function in inspect.getmembers(instance, predicate=inspect.ismethod):
        if not method.startswith('_'):
          self._methods[method] = function

  def call(self, call: dict) -> str:
    """The result as text, or what went wrong."""
    try:
      name = call['name'].rpartition('.')[2]
      if name not in self._methods:
        raise NameError(f"name '{name}' is not defined")
      result = self._methods[name](*call['positional'], **call['arguments'])
      if isinstance(result, dict):
        try:
          return json.dumps(result)
        except (TypeError, ValueError):
          return str(result)
      return str(result)
    except Exception as error:
      return f'Error during execution: {error}'


def _difference(ours: _Instances, gold: _Instances, seen: list[str], expected: list[str], called: bool) -> str:
  """Why a turn differs: no call at all, another state of an instance, or a result of gold's that never came."""
  if not called:
    return 'no call'
  for name, instance in gold.by_class.items():
    for attribute, value in vars(instance).items():
      if not attribute.startswith('_') and getattr(ours.by_class[name], attribute) != value:
        return f'{name}.{attribute} differs'
  left = list(seen)
  for result in expected:
    if result not in left:
      return f'no call gave {result[:150]}'
    left.remove(result)
  return ''


if __name__ == '__main__':
  main()
