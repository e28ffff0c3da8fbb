"""Questions to SQL and back: both queries must give the same rows, also where the data are others."""

import asyncio
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iquest_jax.data.documents import Drop, File
from iquest_jax.data.synthesis import rows, sql

SCHEMA = """CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL, country TEXT, people REAL);
CREATE INDEX by_name ON city (name);
"""
DATA = ''.join(
    f"INSERT INTO city VALUES ({number}, '{name}', {country}, {people});\n"
    for number, (name, country, people) in enumerate([
        ('Bern', "'CH'", 0.13), ('Basel', "'CH'", 0.17), ('Ulm', "'DE'", 0.12), ('Bonn', "'DE'", 0.33),
        ('Köln', "'DE'", 1.08), ('Lyon', "'FR'", 0.52), ('Nice', "'FR'", 0.34), ('Oz', 'NULL', 0.33),
    ])
)  # fmt: skip
QUERY = "SELECT name FROM city WHERE country = 'DE' AND people > 0.2"
QUESTION = 'Which cities in Germany (DE) have more than 0.2 million people? Give their names.'
FILE = File('a', 'city.sql', SCHEMA + DATA, 'geo')


def candidate(query=QUERY, again=None, question=QUESTION, data=DATA):
  schema, statements = sql.statements(SCHEMA + data)
  return sql.Candidate(schema, statements, question, query, query if again is None else again, 'geo')


def verified(tools, made):
  return asyncio.run(sql.DOMAIN.verify(made, tools()))


def test_a_round_trip_that_gives_the_same_rows_is_kept(tools):
  again = "select c.name from city as c where 0.2 < c.people and c.country in ('DE') order by 1"
  answers = f'## Data\ngiven\n## Query\n```sql\n{QUERY};\n```', QUESTION, f'```sql\n{again};\n```'
  made = asyncio.run(sql.DOMAIN.generate(FILE, tools(*answers)))
  assert (made.query, made.again, len(made.schema), len(made.data)) == (QUERY, again, 1, 8)
  found = verified(tools, made)
  assert found.checks == sql.CHECKS and found.repo == 'geo'
  request, answer = (message['content'] for message in found.messages)
  assert request.startswith('```sql\nCREATE TABLE city') and request.endswith(QUESTION)
  assert answer == f'```sql\n{QUERY};\n```'


def test_a_schema_without_data_is_filled(tools):
  answers = f'## Data\n```sql\n{DATA}```\n## Query\n```sql\n{QUERY}\n```', QUESTION, QUERY
  made = asyncio.run(sql.DOMAIN.generate(dataclasses.replace(FILE, text=SCHEMA), tools(*answers)))
  assert made == candidate() and verified(tools, made).checks == sql.CHECKS
  answers = f'## Data\n```sql\nDROP TABLE city;\n```\n## Query\n{QUERY}', QUESTION, QUERY
  assert asyncio.run(sql.DOMAIN.generate(dataclasses.replace(FILE, text=SCHEMA), tools(*answers))).rule == 'sql: no data'


# Calls whose result is another one tomorrow, at the next run, or on another machine.
CHANGING = (
    "date('now')", 'date()', 'strftime("%Y")', 'date("now")', 'unixepoch()', 'CURRENT_DATE', 'current_timestamp',
    "strftime('%s', 'NOW ')", "julianday('now', '-1 day')", "datetime('2020-01-01', 'localtime')", "time('subsec')",
    'random() % 2', 'hex(randomblob(2))', 'changes()', 'sqlite_version()', "date(replace('n_w', '_', 'o'))",
)  # fmt: skip
ORDERED = 'SELECT name FROM city ORDER BY people DESC, id LIMIT 3'


@pytest.mark.parametrize(
    ('made', 'rule'),
    [
        (candidate(again="SELECT name FROM city WHERE country = 'DE'"), 'sql: other rows'),
        # Right on the data by chance.
        (candidate(again="SELECT name FROM city WHERE name IN ('Bonn', 'Köln')"), 'sql: other rows on varied data'),
        (candidate(again=QUERY.replace('0.2', '0.121')), 'sql: other rows on varied data'),
        (candidate("SELECT DISTINCT 'Bonn' FROM city"), 'sql: rows do not depend on the data'),
        (candidate('SELECT COUNT(*) > 0 FROM city'), 'sql: rows do not depend on the data'),
        (candidate("SELECT name FROM city WHERE country = 'XX'"), 'sql: no rows'),
        (candidate("SELECT MAX(people) FROM city WHERE country = 'XX'"), 'sql: no rows'),
        (candidate(ORDERED, ORDERED.replace('DESC, id', 'ASC')), 'sql: other rows'),
        (candidate(ORDERED, f'SELECT name FROM ({ORDERED}) ORDER BY name DESC'), 'sql: other rows'),
        (candidate('SELECT name, people FROM city', 'SELECT people, name FROM city'), 'sql: other rows'),
        (candidate('SELECT country FROM city', 'SELECT DISTINCT country FROM city'), 'sql: other rows'),
        (candidate(question=f'Run {QUERY}'), 'sql: question quotes the query'),
        (candidate(question='What does select name from city where country is DE give?'), 'sql: question quotes the query'),
        (candidate(question=''), 'sql: question quotes the query'),
        (candidate('DELETE FROM city'), 'sql: not one query'),
        (candidate(f'{QUERY}; DROP TABLE city'), 'sql: not one query'),
        (candidate('SELECT 1'), 'sql: not one query'),
        (candidate(again='I do not know.'), 'sql: not one query'),
        (candidate(again='(' * 5000), 'sql: not one query'),
        (candidate(again='SELECT nickname FROM city'), 'sql: a query fails'),
        (candidate('SELECT name FROM city ORDER BY random()'), 'sql: not reproducible'),
        *((candidate(f'SELECT name, {changing} FROM city'), 'sql: not reproducible') for changing in CHANGING),
        (candidate('SELECT name FROM city', "SELECT name FROM city WHERE date() > '2020'"), 'sql: not reproducible'),
        (candidate('SELECT name FROM city LIMIT 3'), 'sql: limit without an order'),
        (candidate('SELECT COUNT(*) FROM (SELECT name FROM city LIMIT 3) WHERE name > "C"'), 'sql: limit without an order'),
        (candidate('WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT MAX(i) FROM n'),
         'sql: a query fails'),
        (candidate(data="INSERT INTO city VALUES (1, 'Bern');"), 'sql: the data do not load'),
    ],
)  # fmt: skip
def test_planted_wrong_samples_are_rejected(tools, made, rule):
  found = verified(tools, made)
  assert isinstance(found, Drop) and found.rule == rule


@pytest.mark.parametrize('text', ['', 'print(1)', '# Notes', 'INSERT INTO a VALUES (1);', SCHEMA * 1000])
def test_a_file_without_a_schema_is_dropped(tools, text):
  assert asyncio.run(sql.DOMAIN.generate(dataclasses.replace(FILE, text=text), tools())).rule == 'sql: no schema'


_SQL = """select insert into values create table a b ( ) , ; ' " ` -- /* */ 1 'x' from where = join on order by limit case
when end null primary key check default as with recursive union all x'ff' [a] ? :v \\ { } * || update set delete drop alter
index trigger begin pragma attach explain replace generated always over partition"""


@given(st.lists(st.sampled_from(_SQL.split()), max_size=12).map(' '.join))
def test_any_text_is_read_or_is_no_sql(text):
  found = sql.statements(f'CREATE TABLE a (b);{text}')
  assert found is None or isinstance(found[0], tuple)


def test_variants_are_the_same_for_a_seed_and_differ_between_seeds(pool):
  ask = lambda seed: rows.answers(candidate().schema + candidate().data, ['SELECT * FROM city'], pool, seed)
  assert ask('a') == ask('a') and ask('a')[0] == ask('b')[0] and ask('a')[1:] != ask('b')[1:]
  assert all(len(rows) >= 1 and rows != ask('a')[0][0] for (rows,) in ask('a')[1:])


def test_times_that_the_data_hold_may_be_computed_with_and_defaults_of_the_clock_may_not(tools):
  schema = 'CREATE TABLE log (id INTEGER PRIMARY KEY, at TEXT DEFAULT CURRENT_TIMESTAMP, n INTEGER);'
  insert = lambda columns, value: ''.join(f'INSERT INTO log {columns} VALUES ({value(n)});' for n in range(9))
  query = "SELECT id, strftime('%Y', at) FROM log WHERE date(at, '+1 day') > '2024-01-05'"

  def given(text):
    tables, data = sql.statements(schema + text)
    return verified(tools, sql.Candidate(tables, data, 'Which entries are later than the fourth?', query, query))

  dated = given(insert('', lambda n: f"{n}, '2024-01-0{n + 1}', {n}"))
  assert dated.checks == sql.CHECKS
  assert given(insert('(id, n)', lambda n: f'{n}, {n}')).rule == 'sql: not reproducible'
  assert given(insert('', lambda n: f"{n}, '{'now' if n == 3 else '2024-01-01'}', {n}")).rule == 'sql: not reproducible'
