"""Real input without a network: source files and prose of the packages this project is built on.

Files come in the order of a hash of their name, so that the first few are a fair sample of all.
"""

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import itertools
import pathlib
import re
from collections.abc import Iterable, Iterator

from iquest_jax.data.documents import File

# Import name -> distribution name. All are permissively licensed and required by setup.py, so always installed.
PACKAGES = {'absl': 'absl-py', 'flax': 'flax', 'grain': 'grain', 'jax': 'jax', 'numpy': 'numpy', 'optax': 'optax'}
MIN_CHARACTERS, MAX_CHARACTERS = 200, 20_000
# About a thousand tokens at the vocabulary of a tiny model.
PART_CHARACTERS = 2500
# Files of a folder that make a repository.
_FILES = (2, 12)


def repositories() -> Iterator[tuple[str, dict[str, str]]]:
  """(name, {path: text}) of folders with a few Python files each, as small repositories."""
  folders: dict[str, dict[str, str]] = {}
  for name, text in files():
    if not _documented(text):  # those are code of high quality
      folder, _, path = name.rpartition('/')
      folders.setdefault(folder, {})[path] = text
  for name in sorted(folders, key=_place):
    chosen = dict(sorted(folders[name].items())[: _FILES[1]])
    if len(chosen) >= _FILES[0]:
      yield name, chosen


def high_quality() -> Iterator[File]:
  """Python files that document at least half of their functions and classes."""
  return _parts((name, text) for name, text in files() if _documented(text))


def web_text() -> Iterator[File]:
  """Prose: the packages' own descriptions, and the docstrings of their modules, without the code."""
  descriptions = (
      (f'{package}/README.md', importlib.metadata.metadata(distribution).get_payload() or '')
      for package, distribution in PACKAGES.items()
  )
  docstrings = ((f'{name.removesuffix(".py")}.txt', _docstrings(text)) for name, text in files())
  return _parts(itertools.chain(descriptions, docstrings))


@functools.cache
def files() -> tuple[tuple[str, str], ...]:
  """(name, text) of every source file of a useful length except tests; a name starts with the package."""
  found = []
  for package in PACKAGES:
    root = pathlib.Path(importlib.util.find_spec(package).origin).parent
    for path in root.rglob('*.py'):
      name = f'{package}/{path.relative_to(root).as_posix()}'
      if 'test' not in name and (text := _read(path)):
        found.append((name, text))
  return tuple(sorted(found, key=lambda file: _place(file[0])))


def _place(name: str) -> bytes:
  return hashlib.sha256(name.encode()).digest()


def _parts(named: Iterable[tuple[str, str]]) -> Iterator[File]:
  """Parts of about PART_CHARACTERS, cut at empty lines: the first of every text, then the second, and so on."""
  for number in itertools.count():
    longer = []
    for name, text in named:
      if len(text) < MIN_CHARACTERS:
        continue
      end = text.find('\n\n', PART_CHARACTERS)
      part, rest = (text, '') if end < 0 else (text[: end + 1], text[end:].lstrip('\n'))
      yield File(f'{name}#{number}', name, part)
      longer.append((name, rest))
    if not longer:
      return
    named = longer


def _read(path: pathlib.Path) -> str:
  """The text of a file of a useful length, without the licence at its top, which repeats in every file; otherwise ''."""
  if path.stat().st_size > MAX_CHARACTERS:
    return ''
  text = re.sub(r'\A(?:#.*\n|\s*\n)+', '', path.read_text(encoding='utf-8', errors='replace'))
  return text if len(text) >= MIN_CHARACTERS else ''


@functools.cache
def _documented(text: str) -> bool:
  definitions = [node for node in _definitions(text) if not isinstance(node, ast.Module)]
  documented = sum(ast.get_docstring(node) is not None for node in definitions)
  return bool(definitions) and 2 * documented >= len(definitions)


def _docstrings(text: str) -> str:
  return '\n\n'.join(docstring for node in _definitions(text) if (docstring := ast.get_docstring(node)))


def _definitions(text: str) -> list[ast.AST]:
  """The module and its functions and classes; empty if the text does not parse."""
  try:
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Module, *_DEFINITIONS))]
  except (SyntaxError, ValueError):
    return []


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
