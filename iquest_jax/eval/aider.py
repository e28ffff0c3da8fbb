"""Aider polyglot: exercises solved by editing files, in two tries; the second sees what the tests said.

Source: aider's benchmark and its edit formats. `whole` gives every changed file in full, `diff` blocks of SEARCH and
REPLACE, which must match the file's lines exactly (aider also forgives other indentation). Python runs by unittest, which
the exercises use, Go by `go test`, Rust by `cargo test`; exercises that need jest, gradle or cmake are missing.
"""

import dataclasses
import json
import os
import pathlib
import re
import secrets
from collections.abc import Mapping, Sequence

from iquest_jax.errors import UserError
from iquest_jax.eval import job
from iquest_jax.eval.suite import MISSING, Outcome, Problem, Prompt, Suite
from iquest_jax.sandbox import languages
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.runner import Step
from iquest_jax.sandbox.verdict import FAILED, PASSED
from iquest_jax.text import extract
from iquest_jax.text.chat import Message

_LIMITS = Limits(wall_s=180, cpu_s=360, memory_bytes=2 << 30, processes=256, disk_bytes=1 << 30, reserves=True)
_LINES = 50  # of the tests' output that the second try sees
_FIXED = ('CMakeLists.txt', 'Cargo.toml', 'go.mod')  # Listed as solutions, and not to be edited.
_NEEDS = {'.js': 'jest', '.java': 'gradle', '.cpp': 'cmake and catch2', '.kt': 'gradle'}
_WHOLE = (
    'For every file that you change, write its name alone on a line and then a fenced block with all of the file.',
    'file.py\n```\n(all of file.py)\n```',
)
_DIFF = (
    'For every change, write the name of the file alone on a line and then a fenced block with the lines to find, which '
    'must be lines of the file, and the lines to put in their place. An empty SEARCH adds to the end of the file.',
    'file.py\n```\n<<<<<<< SEARCH\n(lines of file.py)\n=======\n(new lines)\n>>>>>>> REPLACE\n```',
)
_EDIT = re.compile(r'^<{5,9} SEARCH>?\s*\n(.*?)^={5,9}\s*\n(.*?)^>{5,9} REPLACE\s*?$', re.DOTALL | re.MULTILINE)
# Runs in the sandbox. The program shares the interpreter with the tests, so all that counts comes behind a random word.
_UNITTEST = """
import io, os, sys, unittest
word, report, stream = os.environ.pop('WORD'), os.dup(1), io.StringIO()
os.dup2(2, 1)
sys.path.insert(0, '.')
tests = unittest.defaultTestLoader.loadTestsFromNames(sys.argv[1:])
result = unittest.TextTestRunner(stream=stream, verbosity=1).run(tests)
passed = result.wasSuccessful() and result.testsRun > 0
os.write(report, f'{word} {int(passed)}\\n{stream.getvalue()}'.encode(errors='replace'))
os._exit(0)
"""


class Polyglot(Suite):
  """All exercises of the folder, in one edit format."""

  length = 8192

  def __init__(self, form: str):
    """`form` is 'whole' or 'diff'."""
    self.name, self._form = f'aider_polyglot_{form}', form

  def problems(self, folder: pathlib.Path) -> list[Problem]:
    found = sorted(path for path in folder.rglob('exercises/practice/*/.meta/config.json') if path.is_file())
    if not found:
      raise UserError(
          f'--data: {folder} has no LANGUAGE/exercises/practice/NAME/.meta/config.json; download the benchmark'
      )
    return [_exercise(path.parents[1]) for path in found]

  def prompt(self, problem: Problem) -> Prompt:
    fields = problem.fields
    rule, example = _WHOLE if self._form == 'whole' else _DIFF
    shown = '\n\n'.join(f'{name}\n```\n{fields["files"].get(name, "")}```' for name in fields['solution'])
    ask = (
        f'Change {", ".join(fields["solution"])} so that this is fulfilled. Keep the names that are there, since tests use '
        f'them, and use the standard library only. {rule} For example:\n\n{example}'
    )
    return Prompt(messages=[{'role': 'user', 'content': f'{fields["instructions"]}\n\n{ask}\n\nThe files:\n\n{shown}'}])

  def follow_up(self, problem: Problem, messages: Sequence[Message], pool: Pool) -> list[Message]:
    answers = [message['content'] for message in messages if message['role'] == 'assistant']
    if len(answers) > 1:
      return []
    files, fault = self._edited(problem, answers)
    outcome, said = _tested(problem, files, pool)
    if outcome.status in (PASSED, MISSING):
      return []
    shown = '\n'.join(filter(None, [fault, *said.splitlines()[:_LINES]]))
    names = ', '.join(problem.fields['solution'])
    text = f'The tests fail:\n\n{shown}\n\nThe tests are right and stay as they are. Correct {names}, in the same form.'
    return [{'role': 'user', 'content': text}]

  def extract(self, problem: Problem, answers: Sequence[str]) -> str:
    return json.dumps({'tries': len(answers), 'files': self._edited(problem, answers)[0]})

  def grade(self, problem: Problem, extracted: str, pool: Pool) -> Outcome:
    tried = json.loads(extracted)
    outcome, _ = _tested(problem, tried['files'], pool)
    first = float(outcome.status == PASSED and tried['tries'] == 1)
    return dataclasses.replace(outcome, figures={'first_try': first})

  def score(self, problems: Mapping[str, Problem], outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, float]:
    first = [outcome.figures['first_try'] for samples in outcomes.values() for outcome in samples]
    return {'first try': 100 * sum(first) / len(first), 'two tries': super().score(problems, outcomes)['pass@1']}

  def _edited(self, problem: Problem, answers: Sequence[str]) -> tuple[dict[str, str], str]:
    """The solution files after the edits of all answers, and what is wrong with the last answer's, or ''."""
    names = problem.fields['solution']
    files, fault = {name: problem.fields['files'].get(name, '') for name in names}, ''
    for answer in answers:
      edits, fault = _blocks(extract.without_thinking(answer), names), ''
      for name, text in edits:
        if self._form == 'whole':
          files[name] = text
          continue
        for search, replace in _EDIT.findall(text):
          at = files[name].find(search) if search.strip() else len(files[name])
          if at < 0 or (at and search.strip() and files[name][at - 1] != '\n'):
            fault = f'A SEARCH block does not match {name}:\n{search[:1000]}'
            continue
          files[name] = files[name][:at] + replace + files[name][at + len(search) :]
      fault = fault or ('' if edits else 'No file was changed.')
    return files, fault


def _blocks(text: str, names: Sequence[str]) -> list[tuple[str, str]]:
  """(file, text) of the fenced blocks; the name is on the line before, and may be left out if there is one file."""
  found, above, fence, lines, name = [], '', '', [], ''
  for line in text.split('\n'):
    stripped = line.strip()
    if fence:
      if stripped == fence:
        found.append((name, ''.join(f'{one}\n' for one in lines)))
        fence, above = '', ''
      else:
        lines.append(line)
    elif stripped.startswith('```'):
      fence, lines = '`' * (len(stripped) - len(stripped.lstrip('`'))), []
      said = above.strip('`*#: ')
      name = next((one for one in names if said in (one, one.rpartition('/')[2])), names[0] if len(names) == 1 else '')
    elif stripped:
      above = stripped
  return [(name, text) for name, text in found if name]


def _exercise(folder: pathlib.Path) -> Problem:
  """An exercise with its instructions and files; the example solution, in .meta, is left out."""
  where = folder / '.meta/config.json'
  try:
    listed = json.loads(where.read_text())['files']
    solution = [name for name in listed['solution'] if name not in _FIXED]
    tests = list(listed['test'])
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(
        f'{where}: must list files.solution and files.test: {error!r}; download the exercise again'
    ) from None
  said = [folder / '.docs' / f'{name}.md' for name in ('introduction', 'instructions', 'instructions.append')]
  instructions = '\n\n'.join(path.read_text() for path in said if path.is_file())
  if not (solution and tests and instructions):
    raise UserError(
        f'{where}: solution files, test files or .docs/instructions.md are missing; download the exercise again'
    )
  files = {}
  for path in sorted(folder.rglob('*')):
    name = str(path.relative_to(folder))
    if path.is_file() and not name.startswith(('.meta/', '.docs/')):
      files[name] = path.read_bytes().decode(errors='replace')
  if absent := [name for name in tests if name not in files]:
    raise UserError(f'{where}: {absent[0]} is missing; download the exercise again')
  language = folder.parents[2].name
  fields = {'solution': solution, 'test': tests, 'instructions': instructions, 'files': files, 'language': language}
  return Problem(f'{language}/{folder.name}', fields)


def _tested(problem: Problem, changed: Mapping[str, str], pool: Pool) -> tuple[Outcome, str]:
  """The outcome of the tests with the changed files, and what they printed."""
  fields, word = problem.fields, secrets.token_hex(16)
  suffix = pathlib.PurePosixPath(fields['test'][0]).suffix
  files = {**fields['files'], **changed}
  everyone = pool.backend == 'landlock' and os.geteuid() == 0
  tool = {'.py': 'python', '.go': 'go', '.rs': 'rustc'}.get(suffix, '')
  path = languages.tool_path(tool, everyone) if tool else ''
  if not path:
    return Outcome(MISSING, f'needs {_NEEDS.get(suffix, tool or f"tests in {suffix}")}'), ''
  if suffix == '.py':
    modules = [name.removesuffix('.py').replace('/', '.') for name in fields['test'] if name.endswith('.py')]
    argv, env = (path, '-I', '-S', '-c', _UNITTEST, *modules), {'WORD': word}
  elif suffix == '.go':  # Go ignores a go.mod in the folder for temporary files, which the job's own is.
    files = {f'exercise/{name}': text for name, text in files.items()}
    argv = ('/bin/sh', '-c', 'cd exercise && exec "$0" test ./...', path)
    env = {'GOTOOLCHAIN': 'local', 'GOFLAGS': '-p=2', 'GOPROXY': 'off', 'CGO_ENABLED': '0'}
  else:
    cargo, rustdoc = (os.path.join(os.path.dirname(path), name) for name in ('cargo', 'rustdoc'))
    argv = (cargo, 'test', '--offline', '--', '--include-ignored')
    env = {'RUSTC': path, 'RUSTDOC': rustdoc, 'CARGO_HOME': './.cargo-home'}
  ran, stopped = job.run(pool, [Step(argv, env=env, limits=_LIMITS)], files)
  if stopped:
    return stopped, stopped.reason
  (done,) = ran
  said = f'{done.stdout}\n{done.stderr}'.strip()
  passed = done.exit == 0
  if suffix == '.py':
    first, _, said = done.stdout.partition('\n')
    if not first.startswith(word):
      return Outcome(FAILED, 'the program ended before its tests did', done.seconds), done.stderr
    passed = first == f'{word} 1'
  reason = '' if passed else (said.strip().splitlines() or ['the tests fail'])[-1][:200]
  return Outcome(PASSED if passed else FAILED, reason, done.seconds), said


WHOLE, DIFF = Polyglot('whole'), Polyglot('diff')
