"""What stands where in the files of a repository, found without running anything: definitions, imports, calls."""

import ast
import re
from collections.abc import Sequence

from iquest_jax.data import imports
from iquest_jax.data.languages import language_of

Files = Sequence[tuple[str, str]]
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)
# In other languages, definitions at any depth by the word that precedes the name; Go's methods have a receiver in between.
_BY_KEYWORD = ('javascript', 'typescript', 'tsx', 'java', 'csharp', 'go', 'rust')
_KEYWORD = (
    r'\b(?:class|interface|enum|struct|trait|record|function\*?|func|fn|type|const|let|var)[ \t]+(?:\([^)\n]*\)[ \t]*)?'
    r'(?P<name>[^\W\d]\w*)'
)
_METHOD = r'^[ \t]*(?:[\w<>\[\],.?]+[ \t]+)*{}[ \t]*(?:<[^>\n]*>)?\([^;{{}}]*\)[^;{{}}\n]*\{{'


def defined_in(name: str, files: Files) -> set[str] | None:
  """The paths of files that define a function or type of this name.

  None if that is not known: a file that contains the name does not parse, is in a language whose definitions are not looked
  for, or has a method of this name that no keyword precedes.
  """
  found = set()
  for path, text in files:
    if not re.search(rf'(?<!\w){re.escape(name)}(?!\w)', text):
      continue
    names = _definitions(path, text, name)
    if names is None:
      return None
    if name in names:
      found.add(path)
  return found


def defined_names(files: Files) -> set[str]:
  """The names of functions and types that the files define, as far as they are found."""
  return set().union(*(_definitions(path, text) or () for path, text in files))


def imports_of(path: str, files: Files) -> set[str] | None:
  """The paths of files that a file imports; None if there is no such file."""
  texts = dict(files)
  return set(imports.imported(path, texts[path], texts)) if path in texts else None


def importers_of(path: str, files: Files) -> set[str] | None:
  """The paths of files that import a file; None if there is no such file."""
  texts = dict(files)
  layout = imports.Layout(texts)
  if path not in texts:
    return None
  return {other for other, text in files if path in imports.imported(other, text, layout)}


def calls_of(name: str, files: Files) -> set[str] | None:
  """The names of functions and classes of the files that a Python function calls.

  None if that cannot be seen: the function is not defined exactly once, a name that it calls is defined more than once or
  local to it, or it calls an attribute of such a name, whose object is only known when it runs.
  """
  trees = [tree for path, text in files if path.endswith('.py') and (tree := _parsed(text))]
  defined = [node for tree in trees for node in ast.walk(tree) if isinstance(node, _DEFINITIONS)]
  names = [node.name for node in defined]
  functions = [node for node in defined if node.name == name and isinstance(node, _FUNCTIONS)]
  if len(functions) != 1 or names.count(name) != 1:
    return None
  found, nodes = set(), list(ast.walk(functions[0]))
  local = {node.arg for node in nodes if isinstance(node, ast.arg)}
  local |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
  local |= {node.name for node in nodes if isinstance(node, _DEFINITIONS) and node is not functions[0]}
  for node in nodes:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names:
      return None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
      if names.count(node.func.id) > 1 or node.func.id in local:
        return None
      found.add(node.func.id)
  return found


def _definitions(path: str, text: str, name: str = '') -> set[str] | None:
  """Names that a text defines; None if they are not known, or `name` may be one of them all the same."""
  language = language_of(path, text[:256])
  if language == 'python':
    tree = _parsed(text)
    return {node.name for node in ast.walk(tree) if isinstance(node, _DEFINITIONS)} if tree else None
  if language not in _BY_KEYWORD:
    return None
  found = {match['name'] for match in re.finditer(_KEYWORD, text)}
  return None if name and name not in found and re.search(_METHOD.format(re.escape(name)), text, re.M) else found


def _parsed(text: str) -> ast.Module | None:
  try:
    return ast.parse(text)
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return None
