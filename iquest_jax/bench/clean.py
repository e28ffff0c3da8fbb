"""Cleaning of real source files."""

import pathlib
import sysconfig
import time
from collections.abc import Callable, Iterator

import numpy as np

from iquest_jax.data.clean import checks, licence, structure
from iquest_jax.data.clean.quality import quality
from iquest_jax.data.documents import Drop

# Parsing has a line of its own, and all that a line of the table costs is there.
_PLAIN = tuple(entry for entry in checks.CODE if entry[1] is not structure.check)


def results() -> Iterator[dict]:
  """MB/s of Python's library and numpy on one core: cleaning without parsing, its checks one by one, parsing, quality."""
  texts = sources()
  yield measure('cleaning', lambda path, text: checks.clean(path, text, _PLAIN), texts)
  for name, check in _PLAIN:
    yield measure(name, check, texts)
  yield measure('licence', licence.check_header, texts)
  yield measure('structure', structure.check, texts[::4])
  yield measure('quality', quality, texts)
  yield measure('prose', lambda path, text: checks.clean(path, text, checks.PROSE), prose())


def measure(step: str, check: Callable[[str, str], str | Drop | float], texts: list[tuple[str, str]]) -> dict:
  """Times one pass over all texts: wall time, since parsing runs in a process beside this one."""
  start = time.perf_counter()
  for path, text in texts:
    check(path, text)
  seconds = time.perf_counter() - start
  size = sum(len(text) for _, text in texts)
  return {'step': step, 'mb': round(size / 1e6, 1), 'mb_per_second': round(size / 1e6 / seconds, 1)}


def sources() -> list[tuple[str, str]]:
  """(path, text) of every source file of Python's library and of numpy."""
  library, package = pathlib.Path(sysconfig.get_paths()['stdlib']), pathlib.Path(np.__file__).parent
  files = [path for path in sorted(library.rglob('*.py')) if 'site-packages' not in path.parts]
  return _read([*files, *sorted(package.rglob('*.py'))])


def prose() -> list[tuple[str, str]]:
  """(path, text) of the documentation and the licences that installed packages bring."""
  packages = pathlib.Path(sysconfig.get_paths()['purelib'])
  return _read([path for name in ('*.md', '*.rst', 'LICENSE*') for path in sorted(packages.rglob(name))])


def _read(files: list[pathlib.Path]) -> list[tuple[str, str]]:
  texts = [(path, path.read_text('utf-8', 'replace')) for path in files if path.is_file()]
  # The folder of an environment would make all of them vendored.
  return [('/'.join(path.parts[-2:]), text) for path, text in texts if '\ufffd' not in text]
