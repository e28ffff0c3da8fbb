"""Real input without a network: source files and prose of the packages this project is built on.

For tiny runs. Files are taken in the order of a hash of their name, so that the first few are a fair sample of all.
"""

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import pathlib
import re
from collections.abc import Iterator

from iquest_jax.data.documents import Document

# Import name -> distribution name. All permissively licensed and required by setup.py, so they are always there.
PACKAGES = {'absl': 'absl-py', 'flax': 'flax', 'grain': 'grain', 'jax': 'jax', 'numpy': 'numpy', 'optax': 'optax'}
# A longer file would fill a tiny stage alone.
MAX_CHARACTERS = 12_000
MIN_CHARACTERS = 200
FILES_PER_REPOSITORY = 4


def versions() -> dict[str, str]:
  """{distribution: version} of the packages read, so that prepared rows know when their input changed."""
  return {name: importlib.metadata.version(name) for name in PACKAGES.values()}


def code() -> Iterator[Document]:
  """Python files; the repository of a file is its folder."""
  for name, path in _python_files():
    if text := _read(path):
      yield Document(id=name, source='code', files=((name, text),), repo=_folder(name))


def code_high_quality() -> Iterator[Document]:
  """Python files that parse and document at least every second function or class."""
  for document in code():
    tree = _parse(document.files[0][1])
    definitions = [] if tree is None else [node for node in ast.walk(tree) if isinstance(node, _DEFINITIONS)]
    documented = sum(ast.get_docstring(node) is not None for node in definitions)
    if definitions and 2 * documented >= len(definitions):
      yield document


def web_text() -> Iterator[Document]:
  """Prose: the packages' own descriptions, and the docstrings of their modules, without the code."""
  for package, distribution in PACKAGES.items():
    description = importlib.metadata.metadata(distribution).get_payload() or ''
    if len(description) >= MIN_CHARACTERS:
      name = f'{package}/README'
      yield Document(id=name, source='web_text', files=((name, description[:MAX_CHARACTERS]),), repo=_folder(name))
  for name, path in _python_files():
    tree = _parse(_read(path))
    nodes = [] if tree is None else [node for node in ast.walk(tree) if isinstance(node, (ast.Module, *_DEFINITIONS))]
    text = '\n\n'.join(docstring for node in nodes if (docstring := ast.get_docstring(node)))
    if len(text) >= MIN_CHARACTERS:
      yield Document(id=f'{name}:docstrings', source='web_text', files=((name, text),), repo=_folder(name))


def repositories() -> Iterator[Document]:
  """Folders of Python files as repositories, a few neighbouring files a document."""
  folders: dict[str, list[tuple[str, pathlib.Path]]] = {}
  for name, path in _python_files():
    folders.setdefault(_folder(name), []).append((name, path))
  for folder, members in folders.items():
    members = [(name, text) for name, path in sorted(members) if (text := _read(path))]
    for start in range(0, len(members), FILES_PER_REPOSITORY):
      files = tuple(members[start : start + FILES_PER_REPOSITORY])
      if len(files) > 1:
        yield Document(id=f'{folder}#{start}', source='repository_level', files=files, repo=folder)


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@functools.cache
def _python_files() -> tuple[tuple[str, pathlib.Path], ...]:
  """(name, path) of every source file, tests aside; a name starts with the package, never with a machine's path."""
  files = []
  for package in PACKAGES:
    root = pathlib.Path(importlib.util.find_spec(package).origin).parent
    for path in root.rglob('*.py'):
      name = f'{package}/{path.relative_to(root).as_posix()}'
      if 'test' not in name:
        files.append((name, path))
  return tuple(sorted(files, key=lambda file: hashlib.sha256(file[0].encode()).digest()))


def _read(path: pathlib.Path) -> str:
  """The text of a file of a useful length without the licence at its head, the same in every file; else ''."""
  if path.stat().st_size > MAX_CHARACTERS:
    return ''
  text = re.sub(r'\A(?:#.*\n|\s*\n)+', '', path.read_text(encoding='utf-8', errors='replace'))
  return text if len(text) >= MIN_CHARACTERS else ''


def _parse(text: str) -> ast.Module | None:
  try:
    return ast.parse(text)
  except (SyntaxError, ValueError):
    return None


def _folder(name: str) -> str:
  return name.rpartition('/')[0]
