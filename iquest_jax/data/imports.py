"""Which files of its repository a file imports, and the order in which a repository is read: dependencies first.

Imports are found by patterns, without parsing: Python, JavaScript and TypeScript, Java, Go, includes of C and C++.
"""

import collections
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Sequence

from iquest_jax.data.languages import language_of


class Layout:
  """The paths of a repository, arranged by what imports name; building it takes one look at each path.

  Attributes:
    paths: all of them.
    inside: folder -> paths of the files that lie in it, sorted; '' is the root.
  """

  def __init__(self, paths: Iterable[str]):
    self.paths = frozenset(paths)
    self.inside: dict[str, list[str]] = collections.defaultdict(list)
    self._by_name: dict[str, list[str]] = collections.defaultdict(list)
    for path in sorted(self.paths):
      folder, _, name = path.rpartition('/')
      self.inside[folder].append(path)
      self._by_name[name].append(path)
    for folder in self.inside:
      self._by_name[f'{posixpath.basename(folder)}/'].append(folder)

  def files(self, suffix: str) -> list[str]:
    """Files whose path ends with whole components of `suffix`."""
    return _ending(suffix, self._by_name.get(posixpath.basename(suffix), ()))

  def folders(self, suffix: str) -> list[str]:
    """Folders with files in them whose path ends likewise."""
    return _ending(suffix, self._by_name.get(f'{posixpath.basename(suffix)}/', ()))

  def first(self, paths: Iterable[str]) -> str:
    """The first of `paths` that exists, or ''."""
    return next((path for path in paths if path in self.paths), '')


def imported(path: str, text: str, paths: Collection[str] | Layout) -> list[str]:
  """Files of the same repository that a file imports, in the order of its imports, each once.

  Args:
    paths: of all files of the repository; pass a Layout of them if there are many calls.
  """
  find = _FINDERS.get(language_of(path, text[:256]))
  if not find:
    return []
  layout = paths if isinstance(paths, Layout) else Layout(paths)
  return [found for found in dict.fromkeys(find(path, text, layout)) if found and found != path]


def reading_order(files: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
  """Orders the (path, text) of a repository: a file comes after those it imports, otherwise folder by folder.

  Files that import each other in a circle are ordered as if the import that closes the circle were absent.
  """
  texts = dict(files)
  layout = Layout(texts)
  ordered, reached = [], set()
  stack: list[tuple[str, Iterator[str]]] = []  # instead of recursion: a chain of imports may be long

  def enter(path: str) -> None:
    reached.add(path)
    stack.append((path, iter(imported(path, texts[path], layout))))

  for root in sorted(texts, key=lambda path: (posixpath.dirname(path), path)):
    if root not in reached:
      enter(root)
    while stack:
      path, dependencies = stack[-1]
      if ahead := next((other for other in dependencies if other not in reached), ''):
        enter(ahead)
      else:
        stack.pop()
        ordered.append((path, texts[path]))
  return ordered


def _ending(suffix: str, candidates: Iterable[str]) -> list[str]:
  return [path for path in candidates if path == suffix or path.endswith('/' + suffix)]


def _nearest(candidates: Iterable[str], importer: str) -> str:
  """The candidate that shares most leading folders with the importing file; '' if there is none."""
  here = posixpath.dirname(importer).split('/')

  def distance(path: str) -> tuple[int, int, str]:
    there = path.split('/')
    shared = next((n for n, (a, b) in enumerate(zip(here, there)) if a != b), min(len(here), len(there)))
    return -shared, len(there), path

  return min(candidates, key=distance, default='')


_PYTHON = re.compile(
    r'^[ \t]*(?:from[ \t]+(?P<origin>\.*[\w.]*)[ \t]+import[ \t]+(?:\((?P<many>[^)]*)\)|(?P<names>[^\n#;]+))'
    r'|import[ \t]+(?P<modules>[\w., \t]+))',
    re.M,
)


def _python(path: str, text: str, layout: Layout) -> Iterator[str]:
  for match in _PYTHON.finditer(text):
    if match['modules'] is not None:
      for module in _names(match['modules']):
        yield _python_module(path, 0, module, layout)
      continue
    module = match['origin'].lstrip('.')
    level = len(match['origin']) - len(module)
    for name in _names(match['many'] or match['names'] or ''):
      # A name is a module of the package, or something inside it.
      submodule = '.'.join(filter(None, (module, name)))
      yield _python_module(path, level, submodule, layout) or _python_module(path, level, module, layout)


def _names(names: str) -> list[str]:
  """'a as b, c' -> ['a', 'c']; lines may have comments."""
  names = re.sub(r'#[^\n]*', '', names).replace('\\', ' ')
  return [words[0] for name in names.split(',') if (words := name.split())]


def _python_module(importer: str, level: int, module: str, layout: Layout) -> str:
  suffix = module.replace('.', '/')
  forms = lambda base: (f'{base}.py', f'{base}/__init__.py', f'{base}.pyi', f'{base}.pyx')
  if level:
    folder = posixpath.dirname(importer)
    if folder.count('/') + bool(folder) < level - 1:
      return ''
    for _ in range(level - 1):
      folder = posixpath.dirname(folder)
    base = posixpath.join(folder, suffix).rstrip('/')
    return layout.first(forms(base) if base else ('__init__.py',))
  if not suffix or suffix.endswith('/'):
    return ''
  found = layout.files(f'{suffix}.py') + layout.files(f'{suffix}.pyi') + layout.files(f'{suffix}.pyx')
  packages = (f'{folder}/__init__.py' for folder in layout.folders(suffix))
  found += [package for package in packages if package in layout.paths]
  return _nearest((path for path in found if _is_top(path, suffix, importer, layout)), importer)


def _is_top(path: str, suffix: str, importer: str, layout: Layout) -> bool:
  """Whether absolute names may start at this place: not inside a package; short ones only where Python would look."""
  root = path[: path.rindex(suffix)].rstrip('/')
  if root and f'{root}/__init__.py' in layout.paths:
    return False
  return '/' in suffix or root in ('', 'src', 'lib', 'python') or importer.startswith(root + '/')


_SCRIPT = re.compile(r'''(?:\bfrom|\bimport|\brequire)\s*\(?\s*['"`](\.{1,2}(?:/[^'"`\n]*)?)['"`]''')
_SCRIPT_ENDINGS = ('.ts', '.tsx', '.d.ts', '.js', '.jsx', '.mjs', '.cjs', '.mts', '.cts', '.vue', '.svelte', '.json')


def _script(path: str, text: str, layout: Layout) -> Iterator[str]:
  for name in _SCRIPT.findall(text):
    base = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
    stem, ending = posixpath.splitext(base)
    # TypeScript names the file that it will be compiled to.
    compiled = ending in ('.js', '.jsx', '.mjs', '.cjs')
    sources = [stem + other for other in ('.ts', '.tsx', '.mts', '.cts') if compiled]
    folder = '' if base == '.' else base + '/'
    indices = [f'{folder}index{other}' for other in _SCRIPT_ENDINGS]
    yield layout.first([base, *sources, *(base + other for other in _SCRIPT_ENDINGS), *indices])


_JAVA = re.compile(r'^[ \t]*import[ \t]+(?:static[ \t]+)?([\w.]+?)(\.\*)?[ \t]*;', re.M)


def _java(path: str, text: str, layout: Layout) -> Iterator[str]:
  words = None
  for name, all_of_it in _JAVA.findall(text):
    parts = name.split('.')
    # The last names may be a nested class or a static member.
    suffixes = ('/'.join(parts[:count]) + '.java' for count in range(len(parts), 1, -1))
    if found := next((files for suffix in suffixes if (files := layout.files(suffix))), None):
      yield _nearest(found, path)
    elif all_of_it and (folder := _nearest(layout.folders('/'.join(parts)), path)):
      words = words or set(re.findall(r'\w+', text))
      yield from (file for file in layout.inside[folder] if posixpath.basename(file).removesuffix('.java') in words)


_GO = re.compile(r'^import[ \t]+(?:\(([^)]*)\)|([\w.]*[ \t]*"[^"\n]+"))', re.M)
_HOSTS = ('github.com', 'gitlab.com', 'bitbucket.org')


def _go(path: str, text: str, layout: Layout) -> Iterator[str]:
  for block, single in _GO.findall(text):
    for name in re.findall(r'"([^"\n]+)"', block or single):
      host, *parts = name.split('/')
      # A path without a host is of the standard library; what follows the host names the module, then a folder of it.
      if '.' not in host:
        continue
      first = 2 if host in _HOSTS else 0
      folders = ('/'.join(parts[start:]) for start in range(first, len(parts)))
      folder = next((near for suffix in folders if (near := _nearest(layout.folders(suffix), path))), '')
      files = layout.inside[folder] if folder else ()
      yield from (file for file in files if file.endswith('.go') and not file.endswith('_test.go'))


_INCLUDE = re.compile(r'^[ \t]*#[ \t]*(?:include|import)[ \t]*"([^"\n]+)"', re.M)


def _include(path: str, text: str, layout: Layout) -> Iterator[str]:
  for name in _INCLUDE.findall(text):
    beside = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
    if beside in layout.paths:
      yield beside
    else:
      yield _nearest(layout.files(re.sub(r'^(?:\.\.?/)+', '', posixpath.normpath(name))), path)


_FINDERS = {
    'python': _python,
    'javascript': _script, 'typescript': _script, 'tsx': _script, 'vue': _script, 'svelte': _script,
    'java': _java,
    'go': _go,
    'c': _include, 'cpp': _include, 'objective-c': _include,
}  # fmt: skip
