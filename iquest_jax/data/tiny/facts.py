"""Code facts: short questions with one right answer, looked up by inspecting installed modules.

Source: IQuest-Coder-V1 report, pre-training data (objective, unambiguous, a single right answer).
"""

import importlib
import inspect
import random
from collections.abc import Callable, Iterator

from iquest_jax.data.documents import File, content_id

# Pure Python where possible: built-in functions often carry no signature.
MODULES = [
    'argparse', 'base64', 'bisect', 'collections', 'contextlib', 'copy', 'csv', 'dataclasses', 'datetime', 'difflib',
    'fractions', 'functools', 'glob', 'gzip', 'heapq', 'inspect', 'itertools', 'json', 'logging', 'math', 'operator',
    'os', 'os.path', 'pathlib', 'pickle', 'pprint', 'random', 're', 'shutil', 'statistics', 'string', 'struct',
    'subprocess', 'tempfile', 'textwrap', 'threading', 'tokenize', 'urllib.parse', 'uuid', 'zipfile', 'numpy',
    'numpy.fft', 'numpy.linalg', 'numpy.random',
]  # fmt: skip


def facts(seed: int) -> Iterator[File]:
  """Every fact once, some thousands, in an order that the seed decides."""
  answers: dict[str, set[str]] = {}
  for module in MODULES:
    for name, function in _functions(module):
      for question, answer in _about(module, name, function):
        answers.setdefault(question, set()).add(answer)
  # A name that two modules define makes a question with two answers.
  texts = [f'Question: {question}\nAnswer: {next(iter(a))}\n' for question, a in answers.items() if len(a) == 1]
  random.Random(f'facts:{seed}').shuffle(texts)
  for text in texts:
    yield File(content_id(text), 'fact.txt', text)


def _functions(module: str) -> Iterator[tuple[str, Callable]]:
  contents = importlib.import_module(module)
  for name in sorted(vars(contents)):
    value = getattr(contents, name)
    # Only in the module that defines it: an imported name is a fact about another module.
    if not name.startswith('_') and callable(value) and getattr(value, '__module__', None) == module:
      yield name, value


def _about(module: str, name: str, function: Callable) -> Iterator[tuple[str, str]]:
  kind = 'class' if inspect.isclass(function) else 'function'
  yield f'Which module defines the {kind} {name}?', module
  yield f'Is {module}.{name} a class or a function?', kind
  try:
    parameters = inspect.signature(function).parameters.values()
  except (ValueError, TypeError):
    return
  names = [parameter.name for parameter in parameters if parameter.name != 'self']
  if not names:
    yield f'How many parameters does {module}.{name} take?', 'none'
    return
  yield f'What is the first parameter of {module}.{name}?', names[0]
  yield f'How many parameters does {module}.{name} take?', str(len(names))
  for parameter in parameters:
    # Other defaults print as an address or a type, which is not a fact to learn.
    if isinstance(parameter.default, (bool, int, str, type(None))) and parameter.default is not parameter.empty:
      yield f'What is the default of {parameter.name} in {module}.{name}?', repr(parameter.default)
