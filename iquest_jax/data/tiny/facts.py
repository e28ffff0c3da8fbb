"""Code facts: short questions with one right answer, looked up by inspecting installed modules.

Source: IQuest-Coder-V1 report, pre-training data (objective, unambiguous, a single right answer).
"""

import importlib
import inspect
import random
from collections.abc import Callable, Iterator

from iquest_jax.data.documents import Document, content_id

# Pure Python where possible: built-in functions often carry no signature.
MODULES = [
    'argparse', 'base64', 'bisect', 'collections', 'contextlib', 'copy', 'csv', 'dataclasses', 'datetime', 'difflib',
    'fractions', 'functools', 'glob', 'gzip', 'heapq', 'inspect', 'itertools', 'json', 'logging', 'math', 'operator',
    'os', 'os.path', 'pathlib', 'pickle', 'pprint', 'random', 're', 'shutil', 'statistics', 'string', 'struct',
    'subprocess', 'tempfile', 'textwrap', 'threading', 'tokenize', 'urllib.parse', 'uuid', 'zipfile', 'numpy',
    'numpy.fft', 'numpy.linalg', 'numpy.random',
]  # fmt: skip


def facts(seed: int) -> Iterator[Document]:
  """Every fact once, in an order that the seed decides. Finite: there are some thousands."""
  answers: dict[str, set[str]] = {}
  for module in MODULES:
    for name, function in _functions(module):
      for question, answer in _about(module, name, function):
        answers.setdefault(question, set()).add(answer)
  # A name that two modules define makes a question with two answers.
  found = [(question, *answer) for question, answer in answers.items() if len(answer) == 1]
  random.Random(f'facts:{seed}').shuffle(found)
  for question, answer in found:
    text = f'Question: {question}\nAnswer: {answer}\n'
    yield Document(content_id(text), 'facts', (('fact', text),))


def _functions(module: str) -> Iterator[tuple[str, Callable]]:
  contents = importlib.import_module(module)
  for name in sorted(vars(contents)):
    value = getattr(contents, name)
    # Only where it lives: a name imported from elsewhere would be a fact about that module.
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
    # Other defaults print as an address or as a type, which is no fact to learn.
    if isinstance(parameter.default, (bool, int, str, type(None))) and parameter.default is not parameter.empty:
      yield f'What is the default of {parameter.name} in {module}.{name}?', repr(parameter.default)
