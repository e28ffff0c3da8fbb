"""How programs of each language are compiled and run, and which toolchains this machine has."""

import dataclasses
import functools
import os
import shutil
import subprocess

from iquest_jax.errors import UserError, check_name
from iquest_jax.sandbox import system
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.runner import Step

_COMPILER = Limits(wall_s=60, cpu_s=60, memory_bytes=2 << 30, processes=256, disk_bytes=512 << 20, reserves=True)
_SQLITE = """
import os, sqlite3, sys
database = sqlite3.connect('database.sqlite' if os.path.exists('database.sqlite') else ':memory:')
statement = ''
for line in open('main.sql'):
  statement += line
  if sqlite3.complete_statement(statement):
    for row in database.execute(statement):
      print(*('' if value is None else value for value in row), sep='|')
    statement = ''
if statement.strip():
  for row in database.execute(statement):
    print(*('' if value is None else value for value in row), sep='|')
database.commit()
"""


@dataclasses.dataclass(frozen=True)
class Language:
  """A language of the sandbox.

  Attributes:
    file: what the source file must be called.
    tools: programs it needs, by name; '{name}' in a command stands for a tool's path.
    compile: command that writes `product`; empty if there is nothing to compile.
    run: command that runs the program; empty for Python, which a service runs.
    env: variables both commands need.
    reserves: see Limits.
  """

  file: str
  tools: tuple[str, ...]
  run: tuple[str, ...]
  compile: tuple[str, ...] = ()
  product: str = ''
  env: tuple[tuple[str, str], ...] = ()
  reserves: bool = False


_GO = (('GO111MODULE', 'off'), ('CGO_ENABLED', '0'), ('GOFLAGS', '-p=2'))
LANGUAGES = {
    'python': Language('main.py', ('python',), ()),  # Runs in a fork of the job server.
    'bash': Language('main.sh', ('bash',), ('{bash}', 'main.sh')),
    'sql': Language('main.sql', ('python',), ('{python}', '-I', '-S', '-c', _SQLITE)),
    'javascript': Language('main.js', ('node',), ('{node}', 'main.js'), reserves=True),
    'c': Language('main.c', ('gcc',), ('./main',), ('{gcc}', '-O2', '-o', 'main', 'main.c', '-lm'), 'main'),
    'cpp': Language('main.cpp', ('g++',), ('./main',), ('{g++}', '-O2', '-std=c++17', '-o', 'main', 'main.cpp'), 'main'),
    'go': Language('main.go', ('go',), ('./main',), ('{go}', 'build', '-o', 'main', 'main.go'), 'main', _GO, True),
    'rust': Language(
        'main.rs', ('rustc', 'cc'), ('./main',), ('{rustc}', '-O', '--edition=2021', '-o', 'main', 'main.rs'), 'main'
    ),
    'java': Language(
        'Main.java', ('javac', 'java'), ('{java}', '-XX:+UseSerialGC', '-XX:-UsePerfData', '-cp', '.', 'Main'),
        ('{javac}', '-J-XX:+UseSerialGC', '-J-XX:-UsePerfData', '-J-XX:TieredStopAtLevel=1', 'Main.java'), reserves=True,
    ),
}  # fmt: skip


@functools.cache
def _rust_toolchain() -> str:
  """Returns the folder of the Rust toolchain: rustup's `rustc` is a shim that would look for it in the user's home."""
  shim = shutil.which('rustc')
  if not shim:
    return ''
  done = subprocess.run([shim, '--print', 'sysroot'], capture_output=True, text=True, cwd='/')
  return done.stdout.strip() if done.returncode == 0 else ''


def tool_path(tool: str, everyone: bool = False) -> str:
  """Returns the path of a tool as the sandbox sees it; empty if it is not installed.

  Args:
    everyone: the backend is Landlock started as root, which cannot show what only root can read.
  """
  if tool == 'python':
    return system.python(everyone)[0]
  if tool == 'rustc':
    path = f'{_rust_toolchain()}/bin/rustc' if _rust_toolchain() else ''
  else:
    path = shutil.which(tool, path='/usr/local/bin:/usr/bin:/bin:/usr/local/go/bin:/usr/lib/go/bin') or ''
  return '' if everyone and path and not system.reachable(path) else path


def missing(name: str, everyone: bool = False) -> tuple[str, ...]:
  """Returns the tools of a language that this machine lacks."""
  return tuple(tool for tool in LANGUAGES[name].tools if not tool_path(tool, everyone))


def folders() -> tuple[str, ...]:
  """Returns the toolchains outside the system's folders; pass them to Runner or Pool as `read_only`."""
  return tuple(filter(os.path.isdir, [_rust_toolchain()]))


def steps(name: str, stdin: tuple[str, ...], limits: Limits, backend: str) -> list[Step]:
  """Returns the steps that compile a program, if its language does, and run it once per text of `stdin`.

  Raises:
    UserError: the language does not exist, or its toolchain is not installed.
  """
  check_name('sandbox: language', name, LANGUAGES)
  everyone = backend == 'landlock' and os.geteuid() == 0
  if missing(name, everyone):
    raise UserError(f'sandbox: {name} needs {", ".join(missing(name, everyone))}; install it or skip these problems')
  language = LANGUAGES[name]
  paths = {tool: tool_path(tool, everyone) for tool in language.tools}
  fill = lambda command: tuple(paths.get(part[1:-1], part) for part in command)
  limits = dataclasses.replace(limits, reserves=language.reserves)
  step = functools.partial(Step, env=dict(language.env))
  compiling = [step(fill(language.compile), limits=_COMPILER)] if language.compile else []
  service = {} if language.run else {'python': 'main', 'file': language.file}
  step = functools.partial(step, fill(language.run), service, limits=limits, product=language.product)
  return compiling + [step(stdin=text) for text in stdin]
