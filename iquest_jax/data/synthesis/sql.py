"""Text to SQL by reverse generation and a round trip: a query, the question it answers, and the query for that question.

Source: IQuest-Coder-V1 report, SFT; ours: how it is checked. The model writes a query for a schema, then a question
from the query, then, in a request that does not show the first query, a query from the question. Both must give the
same rows on the data and on variants of it, in the same order if the first one orders them.
"""

import collections
import dataclasses
import json
import logging
import re
from typing import Any

from iquest_jax.data.documents import Conversation, Drop, File, content_id
from iquest_jax.data.synthesis import answers, rows, turns
from iquest_jax.data.synthesis.domain import Domain, Tools
from iquest_jax.text import extract

CHECKS = ('the query from the question gives the same rows', 'the same rows on varied data', 'rows depend on the data')
_LONGEST = 20_000  # characters of a schema with its data, and of an answer; sqlglot parses 0.1 MB/s
_ORDERS = ('an easy', 'a moderately hard', 'a hard')
_QUERY = """Here is the schema of an SQLite database. Think of {kind} question that somebody who keeps these data
would ask and write the query that answers it. Answer with two sections:

## Data
{data}

## Query
One SELECT statement in a fenced block. It must return between one and fifty rows of these data, and must not use
today's date or random numbers."""
_FILL = """INSERT statements in a fenced block that fill every table with 5 to 15 rows, with ties and missing values
where they may occur."""
_KEEP = 'The word: given.'
_QUESTION = """Here are the schema of an SQLite database and a query. Write the question that the query answers, in
one or two sentences, as somebody would ask it who knows the data but no SQL. Say which columns are asked for in
which order, how rows are ordered if the query orders them, how ties and duplicates count, and no more. Answer with
the question alone."""
_ANSWER = """Here is the schema of an SQLite database. Write one query that answers the question. Answer with one
fenced block."""


@dataclasses.dataclass(frozen=True)
class Candidate:
  """What the model wrote; `again` is its query for the question, whose request did not show `query`."""

  schema: tuple[str, ...]
  data: tuple[str, ...]
  question: str
  query: str
  again: str
  repo: str = ''


async def generate(file: File, tools: Tools) -> Candidate | Drop:
  found = await tools.run(statements, file.text)
  if found is None or not found[0]:
    return Drop('sql: no schema')
  (schema, data), kind = found, tools.rng.choice(_ORDERS)
  shown = turns.fenced(';\n'.join(schema) + ';', 'sql')
  wanted = _QUERY.format(kind=kind, data=_KEEP if data else _FILL)
  given = [turns.fenced(';\n'.join(data)[:4000], 'sql')] if data else []
  answer = await tools.ask(turns.request(wanted, shown, *given), temperature=0.8, max_tokens=4000)
  sections = answers.sections(answer, ('Data', 'Query'))
  if sections is None:
    return Drop('sql: malformed answer')
  if not data:
    filled = statements(extract.code(sections['Data'], 'sql'))
    if not filled or filled[0] or not filled[1]:
      return Drop('sql: no data')
    data = filled[1]
  query = _stripped(extract.code(sections['Query'], 'sql'))
  question = await tools.ask(turns.request(_QUESTION, shown, turns.fenced(query, 'sql')), temperature=0.3, seed=1)
  again = await tools.ask(turns.request(_ANSWER, shown, question), max_tokens=2000, seed=2)
  return Candidate(schema, data, question.strip(), query, _stripped(extract.code(again, 'sql')), file.repo)


async def verify(candidate: Candidate, tools: Tools) -> Conversation | Drop:
  query, again = (_tree(text) for text in (candidate.query, candidate.again))
  if query is None or again is None:
    return Drop('sql: not one query')
  if quotes_sql(candidate.question, candidate.query):
    return Drop('sql: question quotes the query', candidate.question[:200])
  if _any_rows(query):
    return Drop('sql: limit without an order', candidate.query[:200])
  database, queries = (*candidate.schema, *candidate.data), (candidate.query, candidate.again)
  seed = content_id(*database, candidate.query)
  found = await tools.run(rows.answers, database, queries, tools.pool, seed)
  if failed := _differ(found, ordered=query.args.get('order') is not None):
    return failed
  schema = turns.fenced(';\n'.join(candidate.schema) + ';', 'sql')
  answer = turns.fenced(candidate.query + ';', 'sql')
  return turns.conversation(f'{schema}\n\n{candidate.question}', answer, CHECKS, candidate.repo)


def _differ(found: list[Any], ordered: bool) -> Drop | None:
  """How the rows of two queries differ, or what else is wrong with them; None if nothing is."""
  if rows.CHANGING in found or any(rows.CHANGING in variant for variant in found):
    return Drop('sql: not reproducible')
  if isinstance(found[0], str):
    return Drop('sql: the data do not load', found[0])
  if any(isinstance(variant, str) for variant in found):
    return Drop('sql: the data cannot be varied')
  if wrong := next((given for variant in found for given in variant if isinstance(given, str)), ''):
    return Drop('sql: a query fails', wrong)
  first, _ = found[0]
  if not first or all(value is None for row in first for value in row):
    return Drop('sql: no rows')
  if all(variant[0] == first for variant in found):
    return Drop('sql: rows do not depend on the data')
  bag = lambda given: given if ordered else collections.Counter(map(json.dumps, given))
  for number, (one, other) in enumerate(found):
    if bag(one) != bag(other):
      return Drop('sql: other rows on varied data' if number else 'sql: other rows')
  return None


def statements(text: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
  """(Statements that create tables, statements that fill them) of a text, as SQLite reads them; None if it is not SQL.

  What else a file does, such as indices, settings and transactions, is left out.
  """
  if len(text) > _LONGEST:
    return None
  from sqlglot import exp

  trees = _parsed(text)
  if trees is None:
    return None
  written = lambda tree: tree.sql('sqlite')
  tables = [tree for tree in trees if isinstance(tree, exp.Create) and tree.kind == 'TABLE' and not tree.expression]
  return tuple(map(written, tables)), tuple(written(tree) for tree in trees if isinstance(tree, exp.Insert))


def quotes_sql(question: str, query: str) -> bool:
  """Whether a question is empty or gives SQL away, so that its answer could be copied from it."""
  words = ' '.join(question.lower().split())
  written = re.search(r'\bselect\b.{1,200}\bfrom\b.{1,200}\b(where|join|group by|order by)\b', words)
  return not words or written is not None or '```' in question or ' '.join(query.lower().split()) in words


def _any_rows(query: Any) -> bool:
  """Whether a query, or a part of it, takes the first of rows that nothing orders."""
  from sqlglot import exp

  return any(limit.parent is not None and limit.parent.args.get('order') is None for limit in query.find_all(exp.Limit))


def _tree(query: str) -> Any:
  """The tree of a query that reads a table; None if it is anything else."""
  from sqlglot import exp

  trees = _parsed(query) if len(query) <= _LONGEST else None
  if not trees or len(trees) > 1 or not isinstance(trees[0], exp.Query) or trees[0].find(exp.Table) is None:
    return None
  return trees[0]


def _parsed(text: str) -> list[Any] | None:
  import sqlglot

  logging.getLogger('sqlglot').setLevel(logging.ERROR)  # it warns of statements it does not know, which are left out here
  try:
    return [tree for tree in sqlglot.parse(text, read='sqlite') if tree is not None]
  except (sqlglot.errors.SqlglotError, RecursionError):
    return None


def _stripped(query: str) -> str:
  return query.strip().rstrip(';').strip()


DOMAIN = Domain('sql', (File,), generate, verify)
