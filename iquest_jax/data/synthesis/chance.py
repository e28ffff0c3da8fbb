"""What lets chance, the clock or an address in memory decide what a program answers, seen in its text.

Python is read as a tree: names are followed through imports, and a generator of random numbers with a fixed seed is
allowed. Other languages are searched for the names of the usual functions, wherever these stand. What is hidden from
both, such as the order of a set, is left to a second run; see execution.rejects.
"""

import ast
import re
from collections.abc import Iterator

# Names of a module that are refused; of `time`, all but those that are named.
_REFUSED = {
    'datetime': {'now', 'today', 'utcnow'},
    'os': {'urandom', 'getrandom', 'getpid', 'getppid', 'getpgid', 'times', 'getloadavg', 'cpu_count', 'uname'},
    'threading': {'get_ident', 'get_native_id'},
    'uuid': {'uuid1', 'uuid4', 'getnode'},
}
_ALLOWED = {'time': {'sleep', 'strptime', 'struct_time'}}
_WATCHED = {'random', *_REFUSED, *_ALLOWED}
# Whole modules; the last ones import or find others by a name that is only known when they run.
_MODULES = {'secrets', 'importlib', 'builtins', 'imp', 'gc'}
_BUILTINS = {'id', 'hash', '__import__', '__builtins__'}
_PATTERNS = {
    'javascript': r'Math\s*\.\s*random|\bDate\s*\.\s*now|\bnew\s+Date\b(?!\s*\(\s*[^\s)])|\bDate\s*\(\s*\)'
                  r'|\bperformance\b|\bhrtime\b|\bcrypto\b|\bprocess\s*\.\s*(?:pid|uptime|cpuUsage)',
    'java': r'Math\s*\.\s*random|\bnew\s+Random\s*\(\s*\)|\bThreadLocalRandom\b|\bSecureRandom\b|\brandomUUID\b'
            r'|\b(?:currentTimeMillis|nanoTime|identityHashCode)\b|\.\s*now\s*\(|\bnew\s+Date\s*\(\s*\)'
            r'|\bCollections\s*\.\s*shuffle\s*\([^,()]*\)',
    'c': r'\btime\s*\(\s*(?:NULL|0|nullptr|&)|\bclock(?:_gettime)?\s*\(|\bgettimeofday\b|\bgetpid\b|\bgetrandom\b'
         r'|/dev/u?random|\barc4random|\b__(?:TIME|DATE)__',
    'go': r'\brand\s*\.\s*(?!New\b|NewSource\b|NewPCG\b|Rand\b|Source\b)\w|\btime\s*\.\s*(?:Now|Since|Until)\b'
          r'|\bos\s*\.\s*Getpid\b|\bmaphash\b|"crypto/rand"',
    'rust': r'\b(?:SystemTime|Instant)\s*::|\bRandomState\b|\bprocess\s*::\s*id\b|\bthread_rng\b|/dev/u?random',
    'bash': r'\$\{?(?:S?RANDOM|SECONDS|EPOCH\w+|BASHPID)\b|\$\{?\$|\bdate\b|/dev/u?random|\bshuf\b|\bmktemp\b|\buuidgen\b',
    'sql': r"(?i)\brandom(?:blob)?\s*\(|'now'|\bcurrent_(?:date|time|timestamp)\b"
           r'|\b(?:date|time|datetime|julianday|unixepoch)\s*\(\s*\)',
}  # fmt: skip
_PATTERNS['cpp'] = _PATTERNS['c'] + r'|\brandom_device\b|_clock\b|\bthis_thread\s*::\s*get_id\b'


def decides(language: str, code: str) -> str:
  """What in a program makes its answers depend on chance, time or addresses; '' if nothing does, or it does not parse."""
  if language != 'python':
    found = re.search(_PATTERNS[language], code) if language in _PATTERNS else None
    return found[0] if found else ''
  try:
    tree = ast.parse(code)
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return ''
  nodes = list(ast.walk(tree))
  return next(filter(None, _of_python(nodes)), '')


def _of_python(nodes: list[ast.AST]) -> Iterator[str]:
  """Yields what an import or a use of a name refers to if that is refused, else ''."""
  modules: dict[str, str] = {}  # by the name that it has here
  imported: dict[str, str] = {}  # 'module.name' likewise
  for node in nodes:
    if isinstance(node, ast.Import):
      for alias in node.names:
        root = alias.name.partition('.')[0]
        yield root if root in _MODULES else ''
        modules[alias.asname or root] = root
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
      root = node.module.partition('.')[0]
      yield root if root in _MODULES else ''
      for alias in node.names:
        # All of a module may be meant, and what stands in it is not known here.
        yield f'{root}.*' if alias.name == '*' and root in _WATCHED else _of_name(root, alias.name)
        imported[alias.asname or alias.name] = f'{root}.{alias.name}'
  seeded = _seeds(nodes, modules, imported)
  bound = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
  bound |= {node.arg for node in nodes if isinstance(node, ast.arg)} | imported.keys()
  bound |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
  methods = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == '__hash__']
  hashing = {id(node) for method in methods for node in ast.walk(method)}
  with_seed = {id(node.func) for node in nodes if isinstance(node, ast.Call) and _has_seed(node)}
  attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
  bases = {id(node.value) for node in attributes}
  clock = 'datetime' in modules.values() or any(name.startswith('datetime.') for name in imported.values())
  for node in nodes:
    if isinstance(node, ast.Attribute):
      root = modules.get(node.value.id, '') if isinstance(node.value, ast.Name) else ''
      yield _of_name(root, node.attr)
      yield node.attr if node.attr == '__hash__' and id(node) not in hashing else ''
      yield f'.{node.attr}' if clock and node.attr in _REFUSED['datetime'] else ''  # of whatever name the class has
      name = f'{root}.{node.attr}'
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
      name = imported.get(node.id, '')
      mine = node.id in bound or node.id == 'hash' and id(node) in hashing
      yield node.id if node.id in _BUILTINS and not mine else ''
      # A module under another name, or in the hands of getattr.
      yield node.id if modules.get(node.id) in _WATCHED and id(node) not in bases else ''
    else:
      continue
    if name == 'random.Random':
      yield '' if id(node) in with_seed else name
    elif name.startswith('random.') and name != 'random.seed':
      yield '' if seeded and name != 'random.SystemRandom' else name


def _of_name(module: str, name: str) -> str:
  """'module.name' if it is refused."""
  refused = name in _REFUSED.get(module, ()) or module in _ALLOWED and name not in _ALLOWED[module]
  return f'{module}.{name}' if refused else ''


def _seeds(nodes: list[ast.AST], modules: dict[str, str], imported: dict[str, str]) -> bool:
  """Whether the generator that the functions of `random` share is given a seed, and only such that are given."""
  calls = []
  for node in nodes:
    if isinstance(node, ast.Call):
      of = node.func
      root = modules.get(of.value.id, '') if isinstance(of, ast.Attribute) and isinstance(of.value, ast.Name) else ''
      name = f'{root}.{of.attr}' if isinstance(of, ast.Attribute) else imported.get(getattr(of, 'id', ''), '')
      calls += [node] if name == 'random.seed' else []
  return bool(calls) and all(map(_has_seed, calls))


def _has_seed(call: ast.Call) -> bool:
  """Whether a call has a first argument, other than None."""
  given = [*call.args, *(keyword.value for keyword in call.keywords)]
  return bool(given) and not (isinstance(given[0], ast.Constant) and given[0].value is None)
