"""Syntax trees by tree-sitter: the share of errors, where expressions, statements and functions lie, within limits.

Grammars are C code that was not written for hostile text: for some, 100 kB take a minute, or gigabytes, or crash. They
therefore run in a process beside this one (grammars.py), which the kernel ends at its limits; the next text gets another.
Offsets are bytes of the UTF-8 text.
"""

import array
import atexit
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import threading

from iquest_jax.data.languages import LANGUAGES
from iquest_jax.errors import UserError

LEVELS = ('expression', 'statement', 'function')

# ours: both limits. Real source takes 0.1 s of processor time per MB.
SECONDS = 2.0
MAX_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class Tree:
  """What tree-sitter made of a text, which may have errors.

  Attributes:
    data: the text in UTF-8.
    wrong_bytes: how much of it the grammar could not place.
    seconds: of processor time that a question about the tree may take.
  """

  language: str
  data: bytes
  wrong_bytes: int
  seconds: float


def parse(text: str | bytes, language: str, seconds: float = SECONDS) -> Tree | None:
  """The tree of a text.

  None if the language has no grammar (it is not in languages.PARSED), if the text has more than MAX_BYTES bytes, or if
  parsing takes more than `seconds` of processor time, too much memory, or crashes.

  Raises:
    UserError: tree-sitter or the grammar is not installed.
  """
  data = encode(text) if isinstance(text, str) else text
  if language not in LANGUAGES or not LANGUAGES[language].grammar or len(data) > MAX_BYTES:
    return None
  _check_installed(language)
  with _lock:
    process = _process()
    answer = process.parse(data, language, seconds)
    process.tree = Tree(language, data, answer[0], seconds) if answer else None
    return process.tree


def error_share(tree: Tree) -> float:
  """Share of bytes in errors of the syntax, less what the grammar still understood within them."""
  return tree.wrong_bytes / max(len(tree.data), 1)


def spans(tree: Tree, level: str) -> list[tuple[int, int]]:
  """Where the nodes of a level lie, sorted: [(first byte, byte after the last)], none empty, none twice.

  Nodes with errors are left out, and so are names and numbers that stand alone: they are one token each. Every offset lies
  between two characters.

  Args:
    level: one of LEVELS.
  """
  numbers = _ask(tree, level)
  return list(zip(numbers[::2], numbers[1::2]))


def definitions(tree: Tree) -> list[int]:
  """First bytes of functions, types and whatever stands at the top level, each with the comments right above it; sorted."""
  return list(_ask(tree, 'definition'))


def captures(tree: Tree, query: str) -> list[tuple[str, int, int]]:
  """(name, first byte, byte after the last) of what a tree-sitter query captures, outer before inner.

  Of captures with the same span, the one whose name comes first in the query is the outer one. Empty if the query takes
  more than the limits; the query must be valid for the grammar.
  """
  names = list(dict.fromkeys(re.findall(r'@(\w+)', query)))
  numbers = _request(tree, {'query': query})
  return [(names[number], start, end) for number, start, end in zip(numbers[::3], numbers[1::3], numbers[2::3])]


def close() -> None:
  """Ends the process that parses, whose times then count as those of a child; the next text gets another."""
  with _lock:
    _process().close()


def encode(text: str) -> bytes:
  """UTF-8; a lone surrogate, which is not a character, becomes three bytes that `decode` turns back."""
  return text.encode('utf-8', 'surrogatepass')


def decode(data: bytes) -> str:
  return data.decode('utf-8', 'surrogatepass')


def _ask(tree: Tree, level: str) -> array.array:
  return _request(tree, {'level': level})


def _request(tree: Tree, question: dict) -> array.array:
  """The numbers that answer a question about a tree; none if that is beyond the limits."""
  with _lock:
    process = _process()
    if process.tree is not tree:  # it has parsed another text since, or is a new one
      process.parse(tree.data, tree.language, tree.seconds)
      process.tree = tree
    return process.ask({**question, 'seconds': tree.seconds}) or array.array('I')


class _Process:
  """The other process: started when it is first needed, and again when it has ended.

  Attributes:
    tree: of the text that it was given last.
  """

  def __init__(self):
    self.tree: Tree | None = None
    self._process: subprocess.Popen | None = None
    atexit.register(self.close)

  def parse(self, data: bytes, language: str, seconds: float) -> array.array | None:
    self.tree = None
    return self.ask({'language': language, 'bytes': len(data), 'seconds': seconds}, data)

  def ask(self, request: dict, data: bytes = b'') -> array.array | None:
    """The numbers of the answer; None if the process ended instead."""
    if self._process is None:
      self._start()
    try:
      self._process.stdin.write(json.dumps(request).encode() + b'\n' + data)
      self._process.stdin.flush()
      (count,) = self._numbers(1)
      return self._numbers(count)
    except (BrokenPipeError, EOFError):
      self.close()
      return None
    except BaseException:  # an interrupt: the answer would be taken for that of the next request
      self.close()
      raise

  def close(self) -> None:
    if self._process is None:
      return
    self._process.kill()
    for pipe in (self._process.stdin, self._process.stdout):
      with contextlib.suppress(BrokenPipeError):
        pipe.close()
    self._process.wait()
    self._process = self.tree = None

  def _numbers(self, count: int) -> array.array:
    numbers = array.array('I')
    numbers.fromfile(self._process.stdout, count)  # EOFError if there are fewer
    return numbers

  def _start(self) -> None:
    root = pathlib.Path(__file__).parents[2]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(root), *filter(None, sys.path)])}
    # Whatever it writes when it ends is of no use to anybody.
    self._process = subprocess.Popen(
        [sys.executable, '-S', '-m', 'iquest_jax.data.grammars'],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
    )  # fmt: skip
    try:
      self._numbers(1)
    except EOFError:  # otherwise every text would seem to be too hard
      self.close()
      raise RuntimeError('python -m iquest_jax.data.grammars does not start') from None


@functools.cache
def _check_installed(language: str) -> None:
  for module in ('tree_sitter', LANGUAGES[language].grammar.split('.')[0]):
    if importlib.util.find_spec(module) is None:
      raise UserError(f'syntax: {module} is not installed, and {language} needs it; pip install -e .[data]')


_lock = threading.Lock()
_processes: dict[int, _Process] = {}


def _process() -> _Process:
  """That of this process: one that was started before a fork answers to the parent."""
  if os.getpid() not in _processes:
    _processes[os.getpid()] = _Process()
  return _processes[os.getpid()]
