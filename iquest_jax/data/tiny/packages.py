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

from iquest_jax.data.documents import File, Repository

# Import name -> distribution name. All are permissively licensed and required by setup.py, so always installed.
PACKAGES = {'absl': 'absl-py', 'flax': 'flax', 'grain': 'grain', 'jax': 'jax', 'numpy': 'numpy', 'optax': 'optax'}
MIN_CHARACTERS, MAX_CHARACTERS = 200, 20_000
# About a thousand tokens at the vocabulary of a tiny model.
PART_CHARACTERS = 2500
FILES_PER_REPOSITORY = 4


def code() -> Iterator[File]:
  """Python files; the repository of a file is its folder."""
  return _parts((name, _read(path)) for name, path in _python_files())


def code_high_quality() -> Iterator[File]:
  """Python files that parse and document at least half of their functions and classes."""
  return _parts((name, _read(path)) for name, path in _python_files() if _documented(path))


def web_text() -> Iterator[File]:
  """Prose: the packages' own descriptions, and the docstrings of their modules, without the code."""
  descriptions = (
      (f'{package}/README', importlib.metadata.metadata(distribution).get_payload() or '')
      for package, distribution in PACKAGES.items()
  )
  docstrings = ((f'{name}:docstrings', _docstrings(path)) for name, path in _python_files())
  return _parts(itertools.chain(descriptions, docstrings))


def repositories() -> Iterator[Repository]:
  """Folders of Python files as repositories, a few neighbouring short files per document."""
  folders: dict[str, list[tuple[str, str]]] = {}
  for name, path in _python_files():
    if 0 < len(text := _read(path)) <= PART_CHARACTERS:
      folders.setdefault(name.rpartition('/')[0], []).append((name, text))
  for folder, members in folders.items():
    members.sort()
    for start in range(0, len(members), FILES_PER_REPOSITORY):
      files = tuple(members[start : start + FILES_PER_REPOSITORY])
      if len(files) > 1:
        yield Repository(f'{folder}#{start}', folder, files)


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@functools.cache
def _python_files() -> tuple[tuple[str, pathlib.Path], ...]:
  """(name, path) of every source file except tests; a name starts with the package, never with a path of the machine."""
  files = []
  for package in PACKAGES:
    root = pathlib.Path(importlib.util.find_spec(package).origin).parent
    for path in root.rglob('*.py'):
      name = f'{package}/{path.relative_to(root).as_posix()}'
      if 'test' not in name:
        files.append((name, path))
  return tuple(sorted(files, key=lambda file: hashlib.sha256(file[0].encode()).digest()))


def _parts(files: Iterable[tuple[str, str]]) -> Iterator[File]:
  """Parts of about PART_CHARACTERS, cut at empty lines: the first of every file, then the second, and so on."""
  for number in itertools.count():
    longer = []
    for name, text in files:
      if len(text) < MIN_CHARACTERS:
        continue
      end = text.find('\n\n', PART_CHARACTERS)
      part, rest = (text, '') if end < 0 else (text[: end + 1], text[end:].lstrip('\n'))
      yield File(f'{name}#{number}', name, part, name.rpartition('/')[0])
      longer.append((name, rest))
    if not longer:
      return
    files = longer


def _read(path: pathlib.Path) -> str:
  """The text of a file of a useful length, without the licence at its top, which repeats in every file; otherwise ''."""
  if path.stat().st_size > MAX_CHARACTERS:
    return ''
  text = re.sub(r'\A(?:#.*\n|\s*\n)+', '', path.read_text(encoding='utf-8', errors='replace'))
  return text if len(text) >= MIN_CHARACTERS else ''


def _documented(path: pathlib.Path) -> bool:
  definitions = [node for node in _definitions(_read(path)) if not isinstance(node, ast.Module)]
  documented = sum(ast.get_docstring(node) is not None for node in definitions)
  return bool(definitions) and 2 * documented >= len(definitions)


def _docstrings(path: pathlib.Path) -> str:
  return '\n\n'.join(docstring for node in _definitions(_read(path)) if (docstring := ast.get_docstring(node)))


def _definitions(text: str) -> list[ast.AST]:
  """The module and its functions and classes; empty if the text does not parse."""
  try:
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Module, *_DEFINITIONS))]
  except (SyntaxError, ValueError):
    return []
