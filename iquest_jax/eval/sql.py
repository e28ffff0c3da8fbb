"""Spider and BIRD: a question about a database in, a query out, graded by the rows it gives on SQLite in the sandbox.

Rows are a bag; their order counts only if the reference query orders them. BIRD's own script compares sets, which is
reported beside it. Columns must be in the order asked for, and DISTINCT counts; Spider's script is lenient in both.
"""

import collections
import contextlib
import functools
import json
import pathlib
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from iquest_jax.errors import UserError
from iquest_jax.eval import job, read
from iquest_jax.eval.suite import MISSING, Outcome, Problem, Prompt, Suite
from iquest_jax.infer.sampler import Sampling
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.runner import Done, Step
from iquest_jax.sandbox.verdict import FAILED
from iquest_jax.text import extract

# Runs in the sandbox, once per query. The database comes by descriptor, since no path outside is visible there; nothing
# can write to the copy. Rows are printed one per line.
_SCRIPT = """
import json, os, shutil, sqlite3, sys
if not os.path.exists('database.sqlite'):
  with open(3, 'rb') as source, open('database.sqlite', 'wb') as target:
    shutil.copyfileobj(source, target, 1 << 20)
database = sqlite3.connect('file:database.sqlite?mode=ro&immutable=1', uri=True)
database.text_factory = lambda data: data.decode(errors='ignore')
with open('{query}') as file:
  query = file.read()
try:
  for row in database.execute(query):
    print(json.dumps([dict(hex=value.hex()) if isinstance(value, bytes) else value for value in row]))
except (sqlite3.Error, sqlite3.Warning) as error:
  print(error, file=sys.stderr)
  sys.exit(1)
"""


class SqlSuite(Suite):
  """A benchmark of questions with a reference query and an SQLite file per database."""

  sampling = Sampling(temperature=0.2, top_p=0.95)
  length = 1024

  def __init__(self, name: str, query: str, databases: str, seconds: float):
    """`query` is the field of the reference, `databases` the folder with DB/DB.sqlite, `seconds` a query may take."""
    self.name, self._query, self._folder, self._seconds = name, query, databases, seconds
    self._files: dict[str, pathlib.Path] = {}

  def problems(self, folder: pathlib.Path) -> list[Problem]:
    # Both benchmarks call their file dev.json; the databases beside it tell which one it is.
    mine = [path for path in sorted(folder.rglob('dev.json')) if (path.parent / self._folder).is_dir()]
    path = mine[0] if mine else read.find(folder, 'dev.json')
    fields = {'db_id': str, 'question': str, self._query: str} | ({'evidence': str} if self.name == 'bird' else {})
    records, schema = read.records(path, fields), functools.cache(_schema)
    self._files = {}
    for name in sorted({record['db_id'] for record in records}):
      self._files[name] = path.parent / self._folder / name / f'{name}.sqlite'
      if '/' in name or not self._files[name].is_file():
        raise UserError(f'{path}: database {self._files[name]} is missing; download {self._folder} there')
    return [
        Problem(str(number), record | {'schema': schema(self._files[record['db_id']])})
        for number, record in enumerate(records)
    ]

  def prompt(self, problem: Problem) -> Prompt:
    fields = problem.fields
    asked = '\n'.join(filter(None, [fields['question'], fields.get('evidence', '')]))
    comment = ''.join(f'-- {line}\n' for line in asked.split('\n'))
    chat = (
        f'{fields["schema"]}\n\nWrite one SQLite query that answers this, in a fenced block, and nothing else:\n{asked}'
    )
    return Prompt(
        f'{fields["schema"]}\n\n{comment}SELECT', [{'role': 'user', 'content': chat}], stop=[';', '\n\n', '--']
    )

  def extract(self, problem: Problem, answers: Sequence[str]) -> str:
    return extract.code(answers[-1], 'sql').strip().rstrip(';').strip()

  def continued(self, problem: Problem, completion: str) -> str:
    return f'SELECT{completion}' if completion.strip() else ''

  def grade(self, problem: Problem, extracted: str, pool: Pool) -> Outcome:
    if not extracted:
      return Outcome.when(False, 'the answer has no query')
    fields = problem.fields
    database = self._files[fields['db_id']]
    disk = 2 * database.stat().st_size + (256 << 20)
    limits = Limits(wall_s=self._seconds, cpu_s=self._seconds, disk_bytes=disk, output_bytes=64 << 20)
    files = {'gold.sql': fields[self._query], 'model.sql': extracted.replace('\0', ' ')}
    steps = [Step(service={'python': 'main', 'file': f'{name}.py'}, limits=limits) for name in ('gold', 'model')]
    files |= {f'{name}.py': _SCRIPT.replace('{query}', f'{name}.sql') for name in ('gold', 'model')}
    with open(database, 'rb') as source:
      done, stopped = job.run(pool, steps, files, fds=(source.fileno(),))
    if len(done) == 1:
      return Outcome(MISSING, f'the reference query does not run here: {_fault(done[0])}')
    if stopped:
      return stopped
    gold, ours = done
    if ours.exit:
      return Outcome(FAILED, _fault(ours), ours.seconds)
    wanted, rows = _rows(gold), _rows(ours)
    ordered = 'order by' in ' '.join(fields[self._query].lower().split())
    same = rows == wanted if ordered else collections.Counter(rows) == collections.Counter(wanted)
    reason = f'{len(rows)} rows, {len(wanted)} expected' if len(rows) != len(wanted) else 'other rows than expected'
    return Outcome.when(same, reason, as_sets=float(set(rows) == set(wanted)))

  def score(self, problems: Mapping[str, Problem], outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, float]:
    figures = super().score(problems, outcomes)
    if self.name == 'bird':
      sets = [outcome.figures.get('as_sets', 0.0) for samples in outcomes.values() for outcome in samples]
      figures['as sets'] = 100 * sum(sets) / len(sets)
    return figures


def _schema(path: pathlib.Path) -> str:
  """The statements that create the tables of a database.

  Raises:
    UserError: the file is not a database.
  """
  try:
    with contextlib.closing(sqlite3.connect(f'{path.absolute().as_uri()}?mode=ro&immutable=1', uri=True)) as database:
      rows = database.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND sql IS NOT NULL ORDER BY rowid")
      return '\n'.join(f'{statement};' for (statement,) in rows)
  except sqlite3.Error as error:
    raise UserError(f'{path}: {error}; download the database again') from None


def _rows(done: Done) -> list[tuple[Any, ...]]:
  plain = lambda value: ('hex', value['hex']) if isinstance(value, dict) else value
  return [tuple(map(plain, json.loads(line))) for line in done.stdout.splitlines()]


def _fault(done: Done) -> str:
  return f'limit {done.limit}' if done.limit else ' '.join(done.stderr.split())[-200:] or f'exit status {done.exit}'


SPIDER = SqlSuite('spider', 'query', 'database', seconds=60)
BIRD = SqlSuite('bird', 'SQL', 'dev_databases', seconds=30)
