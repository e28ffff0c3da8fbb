"""Runs queries on a small database, as it is and with its data varied, in the sandbox.

The limit of a query counts steps of SQLite's virtual machine, not seconds, so its outcome is the same on every
machine.
"""

import json
from collections.abc import Sequence
from typing import Any

from iquest_jax.data.synthesis import execution
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.runner import Step

# ours: variants of the data beside the original.
VARIANTS = 4
CHANGING = 'depends on the time or on chance'
_SCRIPT = """
import json, random, sqlite3
STEPS, ROWS = 2_000_000, 1000  # of a query
job = json.load(open('job.json'))
CHANGING = job['changing']

def plain(value):
  # Sums in another order differ in their last digits, and 2.0 is 2.
  value = round(value, 6) if isinstance(value, float) else value
  value = int(value) if isinstance(value, float) and value.is_integer() else value
  return {'hex': value.hex()} if isinstance(value, bytes) else value

def quoted(name):
  return '"' + name.replace('"', '""') + '"'

def vary(database, rng):
  # Shuffles each column and deletes some rows: the values that a query asks for still occur, in other rows.
  tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
  for table in tables:
    if table.startswith('sqlite_'):
      continue
    rows = database.execute(f'SELECT * FROM {quoted(table)}').fetchall()
    columns = [list(column) for column in zip(*rows)]
    for column in columns:
      rng.shuffle(column)
    kept = [row for row in zip(*columns) if rng.random() < 0.8]
    database.execute(f'DELETE FROM {quoted(table)}')
    for row in kept:
      database.execute(f'INSERT OR IGNORE INTO {quoted(table)} VALUES ({", ".join("?" * len(row))})', row)

class Changing(Exception):
  pass

def guard(database):
  # What depends on the clock, on chance or on earlier statements raises, wherever it stands: in a query, a default value,
  # or as the text 'now' among the data.
  clock, seen = sqlite3.connect(':memory:'), []
  def refuse(*args):
    seen.append(1)
    raise Changing
  def at(name):
    def call(*args):
      words = [str(arg).strip().lower() for arg in args[name == 'strftime' :]]
      if not words or any(word in ('now', 'localtime', 'utc', 'subsec', 'subsecond') for word in words):
        refuse()
      return clock.execute(f'SELECT {name}({", ".join("?" * len(args))})', args).fetchone()[0]
    return call
  for name in ('date', 'time', 'datetime', 'julianday', 'strftime', 'unixepoch', 'timediff'):
    database.create_function(name, -1, at(name), deterministic=True)
  for name in ('current_date', 'current_time', 'current_timestamp', 'random', 'randomblob', 'changes', 'total_changes',
               'last_insert_rowid', 'sqlite_version', 'sqlite_source_id'):
    for count in (0, 1) if name == 'randomblob' else (0,):
      database.create_function(name, count, refuse)
  return seen

def rows_of(database, query, changing):
  database.set_progress_handler(lambda: 1, STEPS)
  try:
    rows = database.execute(query).fetchmany(ROWS + 1)
  except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
    return CHANGING if changing else str(error)
  return 'too many rows' if len(rows) > ROWS else [[plain(value) for value in row] for row in rows]

def answers(variant):
  database = sqlite3.connect(':memory:', isolation_level=None)
  changing = guard(database)
  database.text_factory = lambda data: data.decode(errors='replace')
  database.set_progress_handler(lambda: 1, STEPS)
  try:
    for statement in job['database']:
      database.execute(statement)
    if variant:
      vary(database, random.Random(f'{job["seed"]}:{variant}'))
  except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
    return CHANGING if changing else str(error)
  database.execute('PRAGMA query_only = 1')
  return [rows_of(database, query, changing) for query in job['queries']]

for variant in range(job['variants'] + 1):
  print(json.dumps(answers(variant)))
"""


def answers(database: Sequence[str], queries: Sequence[str], pool: Pool, seed: str = '') -> list[list[Any] | str]:
  """[variant][query] -> rows, or what was wrong with the query; a text in place of a variant that has no database.

  What was wrong is CHANGING where a function was called whose result depends on the clock, on chance or on what ran before.

  Args:
    database: statements that create tables and fill them.
    queries: one statement each.
    seed: of the variants. The first is the database as it is.
  """
  job = {'database': list(database), 'queries': list(queries), 'variants': VARIANTS, 'seed': seed, 'changing': CHANGING}
  step = Step(service={'python': 'main', 'file': 'main.py'}, limits=execution.LIMITS)
  done = execution.run([step], pool, {'main.py': _SCRIPT, 'job.json': json.dumps(job)})
  if not done or done[0].exit or done[0].limit:
    return ['the sandbox ended the database']
  return [json.loads(line) for line in done[0].stdout.splitlines()]
